"""Decoding calls: `generate`, `infill`, and the calls of other projects, with the same arguments and `order=`."""

from anyorder.interfaces.generate import generate as generate
from anyorder.interfaces.infill import infill as infill
from anyorder.interfaces.language import Answer as Answer
from anyorder.interfaces.language import LanguageModel as LanguageModel
from anyorder.interfaces.prompts import collate as collate
from anyorder.interfaces.transformers import MaskedGenerationMixin as MaskedGenerationMixin
from anyorder.interfaces.transformers import as_generator as as_generator
