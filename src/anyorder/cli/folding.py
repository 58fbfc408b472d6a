"""The command fold: structure scores of the sequences of a file."""

from pathlib import Path
from typing import Annotated

import typer

from anyorder.cli.app import command
from anyorder.cli.options import JsonOption, LimitOption, ProgressBar, wide_console
from anyorder.errors import BadInput


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
) -> None:
    """Predict the structures of proteins with ESMFold: pLDDT, pTM, pAE, foldability. The same command resumes."""
    import itertools

    from rich.console import Console
    from rich.table import Table

    from anyorder.evaluation.structure import ESMFold, mean_tm, structure_summary, tm_align
    from anyorder.files import write_json
    from anyorder.tasks.sequence_files import read_records

    if not file.is_file():
        raise BadInput(f"no such file: {file}")
    if inner_tm:
        tm_align()  # fail before hours of folding
    read = list(itertools.islice(read_records(file), limit))
    if not read:
        raise BadInput(f"{file} holds no sequences")
    predictor = ESMFold(model, device=device, dtype=dtype, chunk_size=chunk_size, batch_size=fold_batch_size)
    with ProgressBar(Console(stderr=True)) as bar:
        structures = predictor.fold([record.text.strip() for record in read], lambda done, total: bar("folding", done, total))
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
