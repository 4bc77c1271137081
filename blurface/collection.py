"""Collections of picture files: what goes in, where it comes out, restored one batch at a time.

The unit is a *job*: a picture file, or a Parquet file with a column of encoded pictures. A target
is written whole or not at all, so a run that was cut off is resumed by leaving out what is there;
one bad picture is reported and the rest is done.
"""

from __future__ import annotations

import glob
import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from .errors import BlurfaceError, ImageError, InputError
from .files import replacing
from .images import (
    eight_bits,
    encode_image,
    format_of,
    frames_of,
    keeps_orientation,
    known_formats,
    name_of,
    open_image,
    picture_suffixes,
    upright,
    write_image,
)
from .memory import ran_out
from .stage import DeblurStage, Decision

TABLE_SUFFIX = ".parquet"

_WINDOW_PIXELS = 2**24
"""Decoded pixels held at once (about 50 MB at 8 bits), unless one picture is larger by itself."""

Status = Literal["restored", "blended", "passed", "skipped", "failed"]
STATUS: dict[str, Status] = {"restore": "restored", "blend": "blended", "pass": "passed"}
"""What became of a picture, by the action of its decision."""


class Mended(NamedTuple):
    """A picture that was looked after.

    Attributes
    ----------
    picture : PIL.Image.Image
    decision : Decision
    note : str
        What else is to be said, e.g. that no face was found.
    """

    picture: Image.Image
    decision: Decision
    note: str = ""


Mend = Callable[[list[Image.Image]], list[Mended]]
"""What is done to upright pictures: whole pictures by a stage, or the faces in them."""


@dataclass(frozen=True)
class Job:
    """One file to restore and the file to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    source, target : str
    status : {"restored", "blended", "passed", "skipped", "failed"}
        ``"passed"``: sharp, so the file was copied as it is; ``"skipped"``: finished before.
    score : float or None
        Blur score in pixels, where the restorer gives one; of a table the mean.
    message : str
        Why it failed, or what else is to be said.
    """

    source: str
    target: str
    status: Status
    score: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Options:
    """How pictures are written.

    Attributes
    ----------
    overwrite : bool
        Do again what is finished.
    compare : bool
        Also write ``NAME-compare.SUFFIX``: before and after side by side.
    quality : int
        Of JPEG and lossy WebP, 1 to 100.
    column : str
        Column of a Parquet file that holds encoded pictures (bytes, or a struct with ``bytes``).
    """

    overwrite: bool = False
    compare: bool = False
    quality: int = 95
    column: str = "image"


def by_stage(stage: DeblurStage) -> Mend:
    """Restore whole pictures (aligned crops) with a stage."""

    def mend(pictures: list[Image.Image]) -> list[Mended]:
        restored, decisions = stage(pictures, return_info=True)
        return [Mended(picture, decision) for picture, decision in zip(restored, decisions, strict=True)]

    return mend


# ------------------------------------------------------------------------------ what goes where


def collect(
    inputs: Sequence[str], out: str | None = None, suffix: str | None = None, *, compare: bool = False
) -> list[Job]:
    """Jobs for files, folders and glob patterns.

    Parameters
    ----------
    inputs : sequence of str
        Files are taken whatever their suffix; of folders, and those below (links to folders are not
        followed), the files with a suffix of :func:`~blurface.images.picture_suffixes` or Parquet; a
        pattern that is no file is expanded (``**`` is any depth).
    out : str, optional
        A folder (made if absent), in which names and subfolders stay; or, for a single file, the
        file to write if it has a picture's suffix and is no folder. Without it results lie beside
        their sources.
    suffix : str, optional
        Put between name and suffix of each result; default ``"-restored"`` without ``out``, else
        nothing.
    compare : bool
        Sheets are written too (:func:`compared`) and need names of their own.

    Raises
    ------
    InputError
        If an input is missing, nothing is found, a result would replace a source, two results would
        have one name, or ``out`` names a table for a picture or a picture for a table.
    """
    if suffix is None:
        suffix = "" if out else "-restored"
    if os.sep in suffix or "\0" in suffix:
        raise InputError(f"The suffix {suffix!r} cannot be part of a file name.", "Use e.g. -restored.")
    sources = list(_sources(inputs, out))
    if not sources:
        raise InputError(
            f"No pictures in {', '.join(name_of(entry) for entry in inputs)}.",
            f"In folders they are known by suffix: {' '.join(sorted(picture_suffixes()))} {TABLE_SUFFIX}.",
        )
    jobs = [
        Job(source, _target(source, below, out, suffix, len(sources) == 1)) for source, below, _ in sources
    ]
    # Results that an earlier run left beside their sources are no sources, unless they are named.
    results = {os.path.abspath(path) for job in jobs for path in (job.target, compared(job.target))}
    jobs = [
        job
        for job, (_, _, named) in zip(jobs, sources, strict=True)
        if named or job.target == job.source or os.path.abspath(job.source) not in results
    ]
    taken: dict[str, Path] = {}
    for job in jobs:
        for path in _written(job, compare):
            target = os.path.realpath(path)
            if os.path.exists(target) and os.path.realpath(job.source) == target:
                raise InputError(
                    f"{name_of(job.source)} would be replaced by its result.",
                    "Use another --out, or --suffix.",
                )
            if target in taken:
                raise InputError(
                    f"{name_of(taken[target])} and {name_of(job.source)} would both be written to "
                    f"{name_of(path)}.",
                    "Leave --compare out, or use --suffix."
                    if compare
                    else "Give their common folder, which keeps subfolders, or restore them one after the "
                    "other.",
                )
            taken[target] = job.source
    return jobs


def _sources(inputs: Sequence[str], out: str | None) -> Iterator[tuple[Path, Path, bool]]:
    """Each source once, with its path below what was named, and whether it was named itself."""
    seen: set[str] = set()
    own = os.path.realpath(out) if out else None
    for entry in inputs:
        found: list[tuple[Path, Path]] = []
        named = False
        if os.path.isdir(entry):
            found.extend(_walk(Path(entry), own))
        elif os.path.lexists(entry):
            found.append((Path(entry), Path(Path(entry).name)))
            named = True
        elif glob.has_magic(entry):
            matches = [name for name in sorted(glob.glob(entry, recursive=True)) if not os.path.isdir(name)]
            if not matches:
                raise InputError(f"Nothing matches {name_of(entry)}.", "Check the pattern.")
            found.extend(
                (Path(name), Path(Path(name).name)) for name in matches if not _under(name, entry, own)
            )
        else:
            raise InputError(f"{name_of(entry)} does not exist.", "Check the path.")
        for source, below in found:
            # Not resolved: a picture and a link to it are two pictures of two names.
            key = os.path.abspath(source)
            if key not in seen:
                seen.add(key)
                yield source, below, named


def _under(name: str, pattern: str, own: str | None) -> bool:
    """Whether a match lies in the folder of results and that one below where the pattern looks."""
    if own is None:
        return False
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
    start, folder = os.path.realpath(Path(*fixed)), os.path.realpath(os.path.dirname(name))
    return own != start and Path(own).is_relative_to(start) and Path(folder).is_relative_to(own)


def _walk(folder: Path, own: str | None) -> Iterator[tuple[Path, Path]]:
    closed: list[OSError] = []
    known = picture_suffixes() | {TABLE_SUFFIX}
    for at, folders, names in os.walk(folder, onerror=closed.append):
        # What was written there before is no input; nor are hidden folders.
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (own is None or os.path.realpath(os.path.join(at, name)) != own)
        )
        for name in sorted(names):
            path = Path(at, name)
            if not name.startswith(".") and path.suffix.lower() in known:
                yield path, path.relative_to(folder)
    # Folders that cannot be listed fail when they are opened, and are told with the rest.
    for error in closed:
        path = Path(error.filename)
        yield path, Path(path.name) if path == folder else path.relative_to(folder)


def _target(source: Path, below: Path, out: str | None, suffix: str, single: bool) -> Path:
    name = f"{source.stem}{suffix}{source.suffix}"
    if out is None:
        return source.with_name(name)
    path = Path(out)
    known = picture_suffixes() | {TABLE_SUFFIX}
    if single and path.suffix.lower() in known and not path.is_dir() and not out.endswith(os.sep):
        if is_table(path) != is_table(source):
            raise InputError(
                f"{name_of(source)} cannot be written as {name_of(out)}.", f"Use the suffix {source.suffix}."
            )
        return path
    return path / below.with_name(name)


def compared(target: Path) -> Path:
    """Where before and after lie side by side."""
    return target.with_name(f"{target.stem}-compare{target.suffix}")


def _written(job: Job, compare: bool) -> list[Path]:
    """What a job writes; the target last, so that where it is, all is."""
    return [compared(job.target), job.target] if compare and not is_table(job.source) else [job.target]


# -------------------------------------------------------------------------------------- restore


def restore_jobs(
    jobs: Iterable[Job], mend: Mend, options: Options | None = None, *, batch_size: int = 32, workers: int = 2
) -> Iterator[Outcome]:
    """Restore files, in batches; decoding and encoding overlap with the restoration.

    Parameters
    ----------
    jobs : iterable of Job
    mend : callable
        See :func:`by_stage`.
    options : Options, optional
    batch_size : int
        Pictures handed to ``mend`` at once (fewer where they are large).
    workers : int
        Threads that decode and encode.

    Yields
    ------
    Outcome
        One a job, in order. What a file causes becomes an outcome, never an exception.
    """
    options = options or Options()
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[_Task] = []
        for window in _windows(jobs, batch_size):
            # The next window is decoded while this one is restored.
            following = [_start(job, options, pool) for job in window]
            yield from _restore_window(ahead, mend, options, pool, batch_size)
            ahead = following
        yield from _restore_window(ahead, mend, options, pool, batch_size)


_Task = tuple[Job, "Future[Image.Image] | Outcome | None"]
"""A job with its decoded picture to come; its outcome where it has one; nothing for a table."""


def _start(job: Job, options: Options, pool: ThreadPoolExecutor) -> _Task:
    try:
        for path in _written(job, options.compare):
            if path.exists() and not path.is_file():
                what = "a folder" if path.is_dir() else "no regular file"
                raise InputError(
                    f"{name_of(path)} is {what}.", "Remove it, or use another --out or --suffix."
                )
        finished = not options.overwrite and all(
            path.exists() and path.stat().st_mtime_ns >= job.source.stat().st_mtime_ns
            for path in _written(job, options.compare)
        )
    except (InputError, OSError) as error:
        return job, _failed(job, error)
    if finished:
        return job, _of_earlier_run(job)
    return job, None if is_table(job.source) else pool.submit(open_image, job.source)


def _of_earlier_run(job: Job) -> Outcome:
    """Of a finished job: a table's pictures that failed then are told again."""
    if not is_table(job.source):
        return _outcome(job, "skipped")
    import pyarrow.parquet as pq

    try:
        errors = pq.read_table(job.target, columns=["blur_error"])["blur_error"]
    except Exception as error:  # no table, or one without that column: none of ours
        return _failed(job, ImageError(f"{name_of(job.target)} is no result ({error}).", "Remove it."))
    failed = len(errors) - errors.null_count
    if not failed:
        return _outcome(job, "skipped")
    told = f"{name_of(job.source)}: {failed} failed in an earlier run; see the column blur_error"
    return _outcome(job, "failed", message=f"{told} of {name_of(job.target)}. --overwrite tries them again.")


def is_table(path: Path) -> bool:
    """Whether a file is one of Parquet, by its suffix."""
    return path.suffix.lower() == TABLE_SUFFIX


def _windows(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    window: list[Job] = []
    pixels = 0
    for job in jobs:
        more = _pixels(job.source)
        if window and (len(window) >= size or pixels + more > _WINDOW_PIXELS):
            yield window
            window, pixels = [], 0
        window.append(job)
        pixels += more
    if window:
        yield window


def _pixels(source: Path) -> int:
    if not source.is_file():  # opening a pipe would wait for its writer
        return 0
    try:
        with Image.open(source, formats=known_formats()) as image:
            return image.width * image.height
    except Exception:  # told when the picture is decoded
        return 0


def _restore_window(
    window: list[_Task],
    mend: Mend,
    options: Options,
    pool: ThreadPoolExecutor,
    batch_size: int,
) -> Iterator[Outcome]:
    outcomes: list[Outcome | Future[Outcome]] = []
    ready: list[tuple[int, Job, Image.Image]] = []
    for job, decoded in window:
        if decoded is None:
            outcomes.append(_restore_table(job, mend, options, batch_size))
        elif isinstance(decoded, Outcome):
            outcomes.append(decoded)
        else:
            try:
                ready.append((len(outcomes), job, decoded.result()))
                outcomes.append(_outcome(job, "failed"))
            except (BlurfaceError, OSError) as error:
                outcomes.append(_failed(job, error))
    turned = [upright(image) for _, _, image in ready]
    for (at, job, image), (_, undo), mended in zip(
        ready, turned, mend_each([picture for picture, _ in turned], mend)
    ):
        if isinstance(mended, Exception):
            outcomes[at] = _failed(job, mended)
        else:
            outcomes[at] = pool.submit(_write, job, image, undo, mended, options)
    for outcome in outcomes:
        yield outcome if isinstance(outcome, Outcome) else outcome.result()


def mend_each(pictures: list[Image.Image], mend: Mend) -> list[Mended | BlurfaceError | OSError]:
    """Mend pictures together, and one by one where one of them cannot be mended."""
    if not pictures:
        return []
    try:
        return list(mend(pictures))
    except Exception as error:
        if len(pictures) == 1:
            return [_explained(error)]
    return [one for picture in pictures for one in mend_each([picture], mend)]


def _explained(error: Exception) -> BlurfaceError | OSError:
    """An error as a user can read it, whatever a picture or a restorer made of itself."""
    if isinstance(error, BlurfaceError | OSError):
        return error
    if ran_out(error):
        return ImageError("The picture does not fit in memory.", "Reduce it.")
    return ImageError(
        f"The picture cannot be restored ({type(error).__name__}: {error}).", "Save it again as PNG."
    )


def _write(
    job: Job,
    stored: Image.Image,
    undo: Callable[[Image.Image], Image.Image],
    mended: Mended,
    options: Options,
) -> Outcome:
    decision = mended.decision
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        if options.compare:
            sheet = side_by_side(upright(stored)[0], mended.picture)
            write_image(compared(job.target), sheet, quality=options.quality)
        same = job.source.suffix.lower() == job.target.suffix.lower()
        if decision.action == "pass" and same:
            with replacing(job.target) as temporary:
                shutil.copyfile(job.source, temporary)
        else:
            format = (stored.format if same else None) or format_of(job.target)
            after = undo(mended.picture) if keeps_orientation(format, stored) else mended.picture
            write_image(job.target, after, like=stored, format=format, quality=options.quality)
    except Exception as error:
        return _failed(job, _explained(error))
    return _outcome(job, STATUS[decision.action], decision.score, _note(stored, mended))


def _note(stored: Image.Image, mended: Mended) -> str:
    """What else is to be said of a picture that was written."""
    frames = frames_of(stored)
    if frames > 1 and stored.format != "MPO" and mended.decision.action != "pass":
        return ", ".join(filter(None, [mended.note, f"only the first of {frames} frames"]))
    return mended.note


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """Two pictures of one size on one sheet, four white pixels between them."""
    before, after = eight_bits(before), eight_bits(after)
    mode = "L" if before.mode == after.mode == "L" else "RGB"
    sheet = Image.new(mode, (before.width + 4 + after.width, before.height), "white")
    sheet.paste(before.convert(mode), (0, 0))
    sheet.paste(after.convert(mode), (before.width + 4, 0))
    return sheet


class Streamed(NamedTuple):
    """An encoded picture that was looked after, as :class:`Mended`."""

    encoded: bytes
    decision: Decision
    note: str


def restore_stream(
    data: bytes, mend: Mend, *, quality: int = 95, name: str = "<stdin>", format: str | None = None
) -> Streamed:
    """Restore one encoded picture; format, size, orientation tag and profile stay.

    A picture that passes the gate comes back byte for byte, unless it changes its format.

    Parameters
    ----------
    data : bytes
    mend : callable
        See :func:`by_stage`.
    quality : int
        Of JPEG and lossy WebP.
    name : str
        What messages call the picture.
    format : str, optional
        Pillow's name of another format to write.

    Returns
    -------
    Streamed

    Raises
    ------
    BlurfaceError
        If it cannot be decoded, restored or encoded.
    """
    stored = _decoded(data, name)
    picture, undo = upright(stored)
    (mended,) = mend_each([picture], mend)
    if isinstance(mended, Exception):
        raise mended
    encoded = _encoded(data, stored, undo, mended, quality, format)
    return Streamed(encoded, mended.decision, _note(stored, mended))


def _decoded(data: bytes, name: str) -> Image.Image:
    stream = io.BytesIO(data)
    stream.name = name
    return open_image(stream)


def _encoded(
    data: bytes,
    stored: Image.Image,
    undo: Callable[[Image.Image], Image.Image],
    mended: Mended,
    quality: int,
    format: str | None = None,
) -> bytes:
    own = stored.format or "PNG"
    format = format or own
    if mended.decision.action == "pass" and format == ("JPEG" if own == "MPO" else own):
        return data
    after = undo(mended.picture) if keeps_orientation(format, stored) else mended.picture
    return encode_image(after, format, like=stored, quality=quality)


def _outcome(job: Job, status: Status, score: float | None = None, message: str = "") -> Outcome:
    return Outcome(str(job.source), str(job.target), status, score, message)


def _failed(job: Job, error: Exception) -> Outcome:
    if isinstance(error, BlurfaceError):
        text = str(error)
        # Pictures in memory have no name: the stage calls them "Picture 3".
        if name_of(job.source) not in text and name_of(job.target) not in text:
            text = f"{name_of(job.source)}: {text}"
    else:
        name = getattr(error, "filename", None) or job.target
        text = f"{name_of(name)}: {getattr(error, 'strerror', None) or error}."
    return _outcome(job, "failed", message=text)


# --------------------------------------------------------------------------------------- tables


def _restore_table(job: Job, mend: Mend, options: Options, batch_size: int) -> Outcome:
    """Restore a Parquet file's pictures, batch by batch; other columns, row groups and codecs stay.

    Adds the columns ``blur_score`` (pixels), ``blur_action`` and ``blur_error``; a picture that
    cannot be restored stays as it is and has an error.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = {"restored": 0, "blended": 0, "passed": 0, "failed": 0}
    total, scored = 0.0, 0
    try:
        with pq.ParquetFile(job.source) as table:
            schema = table.schema_arrow
            if options.column not in schema.names:
                raise ImageError(
                    f"{name_of(job.source)} has no column {options.column!r}.",
                    f"Name one with --column: {', '.join(schema.names)}.",
                )
            place = schema.get_field_index(options.column)
            if not _holds_pictures(schema.field(place).type):
                raise ImageError(
                    f"{name_of(job.source)}: the column {options.column!r} is of {schema.field(place).type}.",
                    "Name one of encoded pictures (binary, or a struct with bytes) with --column.",
                )
            added = [("blur_score", pa.float64()), ("blur_action", pa.string()), ("blur_error", pa.string())]
            for name, _ in added:
                if name in schema.names:
                    raise ImageError(f"{name_of(job.source)} already has a column {name!r}.", "Rename it.")
            for name, kind in added:
                schema = schema.append(pa.field(name, kind))
            job.target.parent.mkdir(parents=True, exist_ok=True)
            codecs = _codecs(table.metadata, options.column, [name for name, _ in added])
            with (
                replacing(job.target) as temporary,
                pq.ParquetWriter(temporary, schema, compression=codecs) as writer,
            ):
                for group in range(table.num_row_groups):
                    batches = []
                    for batch in table.iter_batches(batch_size=batch_size, row_groups=[group]):
                        cells = _restore_cells(batch.column(place).to_pylist(), mend, options)
                        for _, decision, message in cells:
                            if decision is None:
                                counts["failed"] += bool(message)
                                continue
                            counts[STATUS[decision.action]] += 1
                            if decision.score is not None:
                                total, scored = total + decision.score, scored + 1
                        columns = list(batch.columns)
                        columns[place] = pa.array([cell[0] for cell in cells], schema.field(place).type)
                        columns.append(pa.array([d.score if d else None for _, d, _ in cells], pa.float64()))
                        columns.append(pa.array([d.action if d else None for _, d, _ in cells], pa.string()))
                        columns.append(pa.array([message or None for _, _, message in cells], pa.string()))
                        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
                    whole = pa.Table.from_batches(batches, schema)
                    writer.write_table(whole, row_group_size=max(whole.num_rows, 1))
    except (BlurfaceError, OSError, pa.ArrowException) as error:
        if isinstance(error, pa.ArrowException):
            error = ImageError(
                f"{name_of(job.source)} is no usable Parquet file ({error}).", "Write it again."
            )
        return _failed(job, error)
    score = total / scored if scored else None
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    if counts["failed"]:
        return _outcome(job, "failed", score, f"{name_of(job.source)}: {told}; see its column blur_error.")
    return _outcome(job, "restored" if counts["restored"] or counts["blended"] else "passed", score, told)


def _holds_pictures(kind: Any) -> bool:
    """Whether an Arrow type is one of encoded pictures: bytes, or a struct with bytes."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_pictures(kind.field(at).type)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_one(kind) for is_one in (*binary, pa.types.is_fixed_size_binary))


def _codecs(metadata: Any, picture: str, added: list[str]) -> str | dict[str, str]:
    """Each column's codec, for the added ones the picture's."""
    if metadata.num_row_groups == 0:
        return "snappy"
    group = metadata.row_group(0)
    codecs = {}
    for column in map(group.column, range(metadata.num_columns)):
        codec = "NONE" if column.compression == "UNCOMPRESSED" else column.compression
        codecs[column.path_in_schema] = codec
        if column.path_in_schema.split(".")[0] == picture:
            codecs.update(dict.fromkeys(added, codec))
    return codecs


_Cell = tuple[Any, Decision | None, str]
"""A value to write, what was decided, and why it could not be restored."""


def _restore_cells(values: list[Any], mend: Mend, options: Options) -> list[_Cell]:
    """Restore a batch of encoded pictures at once, or as many as :data:`_WINDOW_PIXELS` allows."""
    cells: list[_Cell] = []
    ready: list[tuple[int, bytes, Image.Image]] = []
    pixels = 0
    for value in values:
        data = value.get("bytes") if isinstance(value, dict) else value
        cells.append((value, None, ""))
        if value is None:
            continue
        if not isinstance(data, bytes):
            cells[-1] = (value, None, f"holds {type(data).__name__}, not an encoded picture.")
            continue
        try:
            stored = _decoded(data, "picture")
        except (BlurfaceError, OSError) as error:
            cells[-1] = (value, None, str(error))
            continue
        more = stored.width * stored.height
        if ready and pixels + more > _WINDOW_PIXELS:
            _mend_cells(cells, ready, mend, options)
            ready, pixels = [], 0
        ready.append((len(cells) - 1, data, stored))
        pixels += more
    _mend_cells(cells, ready, mend, options)
    return cells


def _mend_cells(
    cells: list[_Cell], ready: list[tuple[int, bytes, Image.Image]], mend: Mend, options: Options
) -> None:
    turned = [upright(stored) for _, _, stored in ready]
    for (at, data, stored), (_, undo), mended in zip(
        ready, turned, mend_each([picture for picture, _ in turned], mend), strict=True
    ):
        value = cells[at][0]
        if isinstance(mended, Exception):
            cells[at] = (value, None, str(mended))
            continue
        try:
            restored = _encoded(data, stored, undo, mended, options.quality)
        except Exception as error:
            cells[at] = (value, None, str(_explained(error)))
            continue
        written = {**value, "bytes": restored} if isinstance(value, dict) else restored
        cells[at] = (written, mended.decision, "")
