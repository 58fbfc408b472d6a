"""Denoisers: what a denoiser is, the small transformer, the adapter for Hugging Face models, any module wrapped."""

from anyorder.denoisers.base import Denoiser as Denoiser
from anyorder.denoisers.base import DenoiserOutput as DenoiserOutput
from anyorder.denoisers.base import fingerprint as fingerprint
from anyorder.denoisers.huggingface import HuggingFaceDenoiser as HuggingFaceDenoiser
from anyorder.denoisers.shared_passes import SharedPasses as SharedPasses
from anyorder.denoisers.transformer import Transformer as Transformer
from anyorder.denoisers.wrapped import WrappedDenoiser as WrappedDenoiser
