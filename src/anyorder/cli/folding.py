"""The command fold: structure scores of the sequences of a file."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from anyorder.cli.app import command
from anyorder.cli.options import JsonOption, LimitOption, ProgressBar, SkipUnreadableOption, check_outputs, wide_console


@command()
def fold(
    file: Annotated[Path, typer.Argument(help="protein sequences: .fasta, .txt, .jsonl or .csv")],
    model: Annotated[str, typer.Option("--model", help="hub id or folder of an ESMFold")] = "facebook/esmfold_v1",
    json_out: JsonOption = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default the GPU if there is one")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="dtype of the weights: float32 or bfloat16; by default as the authors of ESMFold run it")
    ] = None,
    chunk_size: Annotated[int | None, typer.Option(min=1, help="smaller values need less memory, and more time")] = None,
    fold_batch_size: Annotated[int, typer.Option(min=1, help="sequences of equal length folded together")] = 1,
    inner_tm: Annotated[
        bool, typer.Option("--inner-tm", help="also compute the mean TM-score of all pairs: pip install 'anyorder[tm]' (GPLv3)")
    ] = False,
    limit: LimitOption = None,
    skip_unreadable: SkipUnreadableOption = False,
) -> None:
    """Predict the structures of proteins with ESMFold: pLDDT, pTM, pAE, foldability. After an interruption, run it again."""
    from functools import partial

    from rich.console import Console
    from rich.table import Table

    from anyorder.evaluation.structure import ESMFold, mean_tm, structure_summary, tm_align
    from anyorder.files import write_json
    from anyorder.tasks.problem_files import Unreadable, collect
    from anyorder.tasks.sequence_files import read_records

    check_outputs(read=[file], json=json_out)
    if inner_tm:
        tm_align()  # fail before hours of folding
    unreadable = Unreadable(skip_unreadable, hint=" (--skip-unreadable leaves such sequences out)")
    problems = ((record.place, partial(_protein, record)) for record in read_records(file, unreadable=unreadable))
    read = collect(file, problems, limit, "sequences", unreadable)
    if unreadable.count:
        print(f"{file.name}: {unreadable.said()}", file=sys.stderr)
    predictor = ESMFold(model, device=device, dtype=dtype, chunk_size=chunk_size, batch_size=fold_batch_size)
    with ProgressBar(Console(stderr=True)) as bar:
        structures = predictor.fold([record.text for record in read], lambda done, total: bar("folding", done, total))
    table = Table("sequence", "length", "pLDDT", "pTM", "pAE, Å", "foldable")
    names = [record.name or record.place for record in read]
    for name, s in zip(names, structures, strict=True):
        numbers = (str(len(s.sequence)), f"{s.plddt:.1f}", f"{s.ptm:.2f}", f"{s.pae:.1f}", "yes" if s.foldable else "no")
        table.add_row(name, *numbers)
    wide_console().print(table)
    summary = structure_summary(structures)
    if inner_tm:
        summary["inner_tm"] = float(mean_tm(structures).mean())
    print(", ".join(f"{name} {value:.3g}" for name, value in summary.items()))
    if json_out:
        rows = [
            {"name": name, "length": len(s.sequence), "sequence": s.sequence, "plddt": s.plddt, "plddt_ca": s.plddt_ca,
             "ptm": s.ptm, "pae": s.pae, "foldable": s.foldable}
            for name, s in zip(names, structures, strict=True)
        ]  # fmt: skip
        write_json(json_out, {"model": model, "file": file.name, "summary": summary, "sequences": rows})


def _protein(record: Any) -> Any:
    """A record with capitals, and without gaps and the star at its end, refused if it cannot be folded."""
    from anyorder.evaluation.structure import check_sequence
    from anyorder.tasks.alphabets import ESM

    sequence = ESM.decode(ESM.encode(record.text.strip()))
    check_sequence(sequence)
    return replace(record, text=sequence)
