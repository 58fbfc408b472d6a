"""Figures as published, to stand beside ours. Percent of instances solved unless stated otherwise.

Source: arXiv 2606.00295, tables 1 to 4, unless stated otherwise. Its test sets, denoisers and budgets are not ours: compare the
    pattern and not the level.
"""

TABLE1_POLICY_ONLY = {
    "confidence": {"sudoku": 89.84, "sat": 75.9},
    "margin": {"sudoku": 88.67, "sat": 76.0},
    "policy": {"sudoku": 90.82, "sat": 76.1},
    "oracle": {"sudoku": 100.0, "sat": 82.3},
}
TABLE1_JOINT = {
    "uniform": {"sudoku": 92.72, "sat": 88.8},
    "confidence": {"sudoku": 92.68, "sat": 89.8},
    "margin": {"sudoku": 91.00, "sat": 85.2},
    "policy": {"sudoku": 92.87, "sat": 90.9},
}
TABLE3_POLICY_ONLY = {
    "confidence": {"sudoku": (89.84, 18.26), "sat": (75.9, 72.8)},
    "margin": {"sudoku": (88.67, 88.38), "sat": (76.0, 75.6)},
    "policy": {"sudoku": (90.82, 90.53), "sat": (76.1, 75.9)},
}
TABLE3_JOINT = {
    "uniform": {"sudoku": (92.72, 18.35), "sat": (88.8, 87.8)},
    "confidence": {"sudoku": (92.68, 19.67), "sat": (89.8, 88.5)},
    "margin": {"sudoku": (91.00, 90.38), "sat": (85.2, 84.7)},
    "policy": {"sudoku": (92.87, 93.36), "sat": (90.9, 90.9)},
}
TABLE4 = {"mlp": 90.82, "score_transformer": 89.84, "score_hidden_transformer": 90.23}

UPO_TABLE2 = {
    "sudoku": {"random": 61.6, "margin": 71.3, "entropy": 67.1, "confidence": 70.5, "UPO": 81.7},
    "zebra": {"random": 33.9, "margin": 34.6, "entropy": 35.1, "confidence": 33.7, "UPO": 36.2},
}
"""arXiv 2510.05725, table 2, LLaDA-8B: share of right blank cells of 4x4 Sudoku against one stored solution, and of right
tokens of Zebra puzzles, which are symbols there and not words."""

UPO_TABLE3 = {"random": 63.8, "margin": 75.0, "entropy": 74.0, "confidence": 75.1, "UPO": 76.4}
"""The same, table 3: GSM8K after diffu-GRPO."""

UPO_TABLE4 = {
    "sudoku": {"random": 61.6, "confidence": 70.5, "UPO, binary reward": 80.1, "UPO, dense reward": 81.7},
}
"""The same, table 4."""

UPO_SETTINGS = {
    "lr": "3e-06 constant",
    "inner updates": "16",
    "trajectories per update": "3 GPUs, accumulation 8",
}
UPO_MATH_SETTINGS = {
    "lr": "2e-06 cosine",
    "inner updates": "8",
    "trajectories per update": "8 GPUs, accumulation 8",
}
UPO_BETA = {"confidence": "0.05", "softmax": "0.0001", "top_k": "0.001"}
"""The same, appendix E.1: settings of its puzzles, of GSM8K and MATH-500, and the weight of each reference."""

PROTEINS_POLICY_ONLY = {"confidence": (82.20, 0.76), "margin": (82.02, 0.31), "policy": (83.85, 0.80)}
PROTEINS_JOINT = {
    "baseline": (82.20, 0.76),
    "confidence": (82.85, 0.85),
    "margin": (82.28, 0.53),
    "policy": (84.94, 1.00),
}
"""Table 1: pLDDT of DPLM-150M, mean over the lengths 100 to 500, and its sd over three seeds."""

PROTEINS_TABLE2 = {
    "ESM3": (34.13, 0.23, 24.65, 1.50, 3.99, 93.44),
    "ProGen2-medium": (57.94, 0.38, 20.81, 12.75, 2.91, 91.45),
    "ProGen2-large": (55.07, 0.35, 22.00, 11.87, 2.73, 91.48),
    "DPLM-650M": (79.53, 0.66, 11.85, 49.14, 3.18, 92.22),
    "EvoDiff": (31.84, 0.21, 24.76, 0.43, 4.05, 93.19),
    "ProGen2-small": (49.38, 0.28, 23.38, 4.48, 2.55, 89.31),
    "DPLM-150M": (80.23, 0.65, 12.07, 48.14, 3.14, 92.80),
    "DLM-150M": (81.32, 0.65, 12.00, 42.43, 3.21, 92.45),
    "DLM-150M + PAPL": (81.48, 0.72, 8.97, 59.40, 3.12, 91.73),
    "joint policy": (86.43, 0.76, 9.68, 54.14, 4.12, 93.06),
}
"""Table 2: pLDDT, pTM, pAE, foldability in percent, token entropy, sequence diversity in percent. All rows but the last were
taken over from Peng et al. (arXiv 2509.23405) by the paper."""

DPLM_150M_PLDDT = {100: 73.31, 200: 84.30, 300: 84.82, 400: 86.90, 500: 81.71, 600: 81.53, 700: 81.56, 800: 80.92}
"""pLDDT by length as the authors of DPLM publish it beside their code (github.com/bytedance/dplm). The mean over 100 to 500 is
82.21: table 1's high-confidence row on the frozen denoiser, and its baseline of joint training."""
