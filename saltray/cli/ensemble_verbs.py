"""The verbs of published ensembles."""

from typing import Annotated, Literal

from tyro.conf import Positional, arg

import saltray
from saltray.cli import tables
from saltray.cli.console import console, observer, show_ray_output
from saltray.cli.flags import Verbose
from saltray.errors import EnsembleError


def predict(
    *,
    ensemble: str,
    data: str,
    out: str = "submission.csv",
    part: Literal["test", "train"] = "test",
    masks: str | None = None,
    probabilities: str | None = None,
    tta: bool = True,
    workers: int | None = None,
    verbose: Verbose = False,
) -> None:
    """Predict the masks of any number of tiles.

    Args:
        ensemble: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
        data: A folder, a zip or s3://bucket/prefix.
        out: Kaggle submission to write: id,rle_mask. It is a path or s3://bucket/key, as are the next two.
        part: Which images of the data set.
        masks: Folder for PNG masks.
        probabilities: Parquet file for the probabilities of every pixel.
        tta: Average over each tile and its mirror image.
        workers: Model actors; one per GPU where there are any, else one per CPU.

    Examples:
        saltray predict --ensemble saltray-store/ensembles/r1 --data tiles
        saltray predict --ensemble s3://b/salt/ensembles/r1/v2 --data tiles --no-tta
    """
    show_ray_output(verbose)
    done = saltray.predict(
        ensemble=ensemble,
        data=data,
        out=out,
        part=part,
        masks=masks,
        probabilities=probabilities,
        tta=tta,
        workers=workers,
        observer=observer,
    )
    tables.print_prediction(console, done)


def serve(
    *,
    ensemble: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    route: str = "/",
    replicas: int = 1,
    max_replicas: int | None = None,
    queue: int = 128,
    token_file: str | None = None,
    tta: bool = True,
    verbose: Verbose = False,
) -> None:
    """Answer requests with the masks of tiles, on a page too, until Ctrl-C.

    Args:
        ensemble: STORE/ensembles/NAME; a newer version is served once it is published. With /v3 at the end, that one.
        host: Address to listen on; one that other machines reach needs a token, in SALTRAY_SERVE_TOKEN or a file.
        port: Port to listen on.
        route: Path before /predict, for several applications on one cluster.
        replicas: Processes with the models; one GPU each where there are any.
        max_replicas: Replicas at most, where requests wait; as many as --replicas unless given.
        queue: Requests that wait at most; more are answered by 503.
        token_file: File with the token that clients send.
        tta: Average over each tile and its mirror image.

    Examples:
        saltray serve --ensemble saltray-store/ensembles/r1
        saltray serve --ensemble s3://b/salt/ensembles/r1 --port 80 --token-file key
    """
    show_ray_output(verbose)
    saltray.serve(
        ensemble=ensemble,
        host=host,
        port=port,
        route=route,
        replicas=replicas,
        max_replicas=max_replicas,
        queue=queue,
        token_file=token_file,
        tta=tta,
        observer=observer,
    )


def export(
    uri: Annotated[Positional[str], arg(metavar="URI")], /, *, out: str = "ensemble.onnx", tta: bool = True
) -> None:
    """Write an ensemble as one file for other programs: ONNX, or torch.export.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.
        out: File to write, a path or s3://bucket/key; .onnx for ONNX, .pt2 for torch.export.
        tta: Average over each tile and its mirror image, inside the file.

    Examples:
        saltray export saltray-store/ensembles/r1
        saltray export saltray-store/ensembles/r1/v2 --out r1.pt2 --no-tta
    """
    tables.print_exported(console, saltray.export(uri, out, tta=tta))


def list_ensembles(store: Annotated[Positional[str], arg(metavar="STORE")] = "saltray-store", /) -> None:
    """List the ensembles of a store.

    Args:
        store: A folder or s3://bucket/prefix.

    Examples:
        saltray ensemble list
        saltray ensemble list s3://bucket/salt
    """
    if versions := saltray.list_ensembles(store):
        tables.print_ensembles(console, versions)
    else:
        console.print(f"no ensemble in {store} yet; `saltray train` publishes one")


def show(uri: Annotated[Positional[str], arg(metavar="URI")], /) -> None:
    """Print an ensemble's model card.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.

    Examples:
        saltray ensemble show saltray-store/ensembles/r1
    """
    console.print(saltray.Ensemble.card(uri))


def verify(uri: Annotated[Positional[str], arg(metavar="URI")], /) -> None:
    """Check the digest of every member of an ensemble.

    Args:
        uri: STORE/ensembles/NAME, with /latest or /v3 at the end if you like.

    Examples:
        saltray ensemble verify saltray-store/ensembles/r1/v2
    """
    members = saltray.Ensemble.verify(uri)
    for member in members:
        console.print(f"{member.key}  {member.fault or 'correct'}")
    if faults := [member.key for member in members if member.fault]:
        count = f"1 member of {uri} is" if len(faults) == 1 else f"{len(faults)} members of {uri} are"
        raise EnsembleError(f"{count} corrupted or missing: {', '.join(faults)}; restore, or publish it again")
