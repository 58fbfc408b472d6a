"""Figures as published, to stand beside ours. Percent of instances solved unless said otherwise.

Source: arXiv 2606.00295, tables 1, 3 and 4. Its test sets, denoisers and budgets are not ours: what may be compared is the
pattern, not the level.
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
