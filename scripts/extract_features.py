"""Makes a file of image features, as `sparsum train signal` reads it, from a folder of images.

  scripts/extract_features.py IMAGES OUT.h5 --model vgg16              a network of torchvision
  scripts/extract_features.py IMAGES OUT.h5 --program network.pt2      one saved by torch.export.save

IMAGES holds one sub-folder per concept, and an image's label is the name of its sub-folder. Or --labels FILE says which
image has which label: lines of a path below IMAGES, a tab and an integer. OUT.h5 gets the data set `features`
[images, F], images in the order of their paths or of FILE; OUT.labels.json beside it gets their labels, a list in
JSON. Both appear whole or not at all. Training and test images are two calls, with OUT.h5 in train/ and in test/:
there is nothing to number, so that a name means the same in both.

Images are brought to RGB (--grey: one channel), scaled so that the shorter side has --resize pixels, cut to the middle
--size × --size, and normalised, (x/255 − mean)/std. The network gets [batch, 3, size, size]; what it returns is
flattened to one row an image. Of a torchvision network the features are what goes into its last linear layer, or what
the module named by --layer returns.

A .pt2 file is opened by torch.export.load; open only files whose origin you know. Needs h5py, Pillow and PyTorch, and
torchvision for --model. Exit status: 0, or 2 if something given cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
INT64_MAX = 2**63 - 1


class InputError(Exception):
    """Something given cannot be used: one line that says why."""


def need(module: str, package: str, what: str) -> ModuleType:
    """Imports a module, or says which package it is in."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise InputError(f"{what} needs {package}: install it with `pip install {package}` ({error})") from error
    except Exception as error:  # torchvision raises others for a torch of another version
        raise InputError(f"{what} needs {package}, which does not work here ({error})") from error


def write_together(files: list[tuple[Path, Callable[[Path], object]]]) -> None:
    """Each function fills a temporary file beside its path; then all take their names. A failure leaves what was."""
    umask = os.umask(0)
    os.umask(umask)
    temporaries: list[Path] = []
    path = files[0][0]
    try:
        for path, write in files:
            if path.is_dir():
                raise InputError(f"cannot write {path}: it is a folder")
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
            os.close(descriptor)
            temporaries.append(Path(name))
            write(temporaries[-1])
            with temporaries[-1].open("rb") as file:
                os.fsync(file.fileno())
            temporaries[-1].chmod(0o666 & ~umask)
        # If the power fails in between, a file is missing; none stands beside one of another call.
        for path, _ in files[1:]:
            path.unlink(missing_ok=True)
        for (path, _), temporary in zip(files, temporaries):
            temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def without_messages() -> Iterator[None]:
    """PyTorch logs tracebacks and warns before it raises; what it raises is told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def images_by_folder(root: Path) -> list[tuple[Path, str]]:
    """Images with the names of their sub-folders."""
    try:
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {root}: {error.strerror}") from error
    if not folders:
        raise InputError(f"{root}: expected a sub-folder of images for each concept, got none (or give --labels)")
    images = []
    for folder in folders:
        try:
            folder.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{root}: expected sub-folders with names in UTF-8, got {folder.name!a}") from error
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
        if not files:
            raise InputError(f"{folder}: expected at least one image, got none")
        images += [(file, folder.name) for file in files]
    return images


def images_by_list(root: Path, labels: Path) -> list[tuple[Path, int]]:
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {labels}: {error}") from error
    images = []
    for number, line in enumerate(lines, 1):
        name, tab, label = line.rpartition("\t")
        try:
            value = int(label)
        except ValueError:
            tab = ""
            value = 0
        if not tab or not name or abs(value) > INT64_MAX:
            raise InputError(f"{labels}:{number}: expected a path, a tab and an integer, got {line[:60]!r}")
        images.append((root / name, value))
    if not images:
        raise InputError(f"{labels}: expected at least one image, got none")
    return images


def reader(options: argparse.Namespace) -> Callable[[Path], Any]:
    """A function from an image file to a float32 array [channels, size, size]."""
    image = need("PIL.Image", "pillow", "reading images")
    np = need("numpy", "numpy", "reading images")
    channels = 1 if options.grey else 3
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (options.mean, options.std))

    def read(path: Path) -> Any:
        try:
            with image.open(path) as file:
                picture = file.convert("L" if options.grey else "RGB")
        except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
            raise InputError(f"{path}: expected an image ({error})") from error
        scale = options.resize / min(picture.size)
        width, height = (max(options.size, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), image.Resampling.BILINEAR)
        left, top = (width - options.size) // 2, (height - options.size) // 2
        picture = picture.crop((left, top, left + options.size, top + options.size))
        pixels = np.asarray(picture, np.float32).reshape(options.size, options.size, channels)
        return (pixels.transpose(2, 0, 1) / np.float32(255) - mean) / std

    return read


def torchvision_network(options: argparse.Namespace, torch: ModuleType) -> Callable[[Any], Any]:
    models = need("torchvision.models", "torchvision", "--model")
    try:
        builder = models.get_model_builder(options.model)
    except ValueError as error:
        raise InputError(f"--model: expected a model of torchvision, got {options.model!r} ({error})") from error
    if options.weights is None:
        network = builder(weights="DEFAULT")
    else:
        network = builder(weights=None)
        try:
            network.load_state_dict(torch.load(options.weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many kinds
            told = f"--weights {options.weights}: expected parameters of {options.model} ({error})"
            raise InputError(told) from error
    network = network.eval().to(options.device)
    modules = dict(network.named_modules())
    kept: list[Any] = []
    if options.layer is not None:
        if options.layer not in modules:
            raise InputError(f"--layer: expected a module of {options.model}, got {options.layer!r}")
        modules[options.layer].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    else:
        linear = [module for module in modules.values() if isinstance(module, torch.nn.Linear)]
        if not linear:
            raise InputError(f"--layer: {options.model} has no linear layer at its end; name the module to take")
        linear[-1].register_forward_hook(lambda _module, inputs, _output: kept.append(inputs[0]))

    def run(batch: Any) -> Any:
        kept.clear()
        network(batch)
        if not kept:
            raise InputError(f"--layer: expected a module that {options.model} uses, got {options.layer!r}")
        return kept[0]

    return run


def exported_network(options: argparse.Namespace, torch: ModuleType) -> Callable[[Any], Any]:
    if not options.program.is_file():
        raise InputError(f"cannot read {options.program}: no such file")
    wanted = f"--program {options.program}: expected a file of torch.export.save"
    if not zipfile.is_zipfile(options.program):
        raise InputError(f"{wanted}, got one that is damaged or something else")
    try:
        with without_messages():
            loaded = torch.export.load(options.program).module()
    except Exception as error:  # torch raises many kinds
        reason = "" if "warnings above" in str(error) else f" ({error})"
        raise InputError(f"{wanted} that PyTorch {torch.__version__} can read, got another archive{reason}") from error
    try:
        network: Callable[[Any], Any] = loaded.to(options.device)
    except RuntimeError as error:
        raise InputError(f"--device {options.device}: the network cannot be put there ({error})") from error
    return network


def check_device(device: str, torch: ModuleType) -> None:
    try:
        with without_messages():
            torch.zeros(1, device=device).cpu()
    except Exception as error:  # torch raises many kinds
        told = f"--device: expected a device that PyTorch can use here, got {device!r} ({error})"
        raise InputError(told) from error


def as_stored(rows: Any, paths: list[Path], dtype: str) -> Any:
    """Rows [n, F] in the file's type. Refuses those that would not be features there: not finite, or all 0."""
    np = need("numpy", "numpy", "reading images")
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype)
    bad = ~np.isfinite(stored).all(axis=1) | ~stored.any(axis=1)
    if not bad.any():
        return stored
    first = int(bad.argmax())
    path, row, kept = paths[first], rows[first], stored[first]
    if not np.isfinite(row).all():
        column = int(np.isfinite(row).argmin())
        raise InputError(f"{path}: expected finite features in float32, got {row[column]} in column {column}")
    if not row.any():
        raise InputError(f"{path}: expected features that are not all 0, got {row.size} zeros")
    if not np.isfinite(kept).all():
        column = int(np.isfinite(kept).argmin())
        told = f"of at most {np.finfo(dtype).max:g}, got {row[column]:g} in column {column}"
    else:
        told = f"that {dtype} does not round to 0, got {abs(row).max():g} at most"
    raise InputError(f"{path}: --dtype {dtype} expects features {told}; use --dtype float32")


def rows_of(paths: list[Path], options: argparse.Namespace, torch: ModuleType) -> Iterator[Any]:
    """Features of the images, batch by batch, as arrays [n, F]."""
    np = need("numpy", "numpy", "reading images")
    read = reader(options)
    network = torchvision_network(options, torch) if options.model else exported_network(options, torch)
    with torch.inference_mode():
        for begin in range(0, len(paths), options.batch_size):
            part = paths[begin : begin + options.batch_size]
            batch = np.stack([read(path) for path in part])
            # Programs that were exported for one batch size get that size.
            if len(part) < options.batch_size:
                padding = np.zeros((options.batch_size - len(part), *batch.shape[1:]), np.float32)
                batch = np.concatenate([batch, padding])
            try:
                result = network(torch.from_numpy(batch).to(options.device))
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                raise InputError(f"the network does not take a batch of shape {batch.shape}: {error}") from error
            if not isinstance(result, torch.Tensor) or result.dim() < 2 or result.shape[0] != options.batch_size:
                got = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
                raise InputError(f"expected the network to return [{options.batch_size}, …], got {got}")
            yield as_stored(result[: len(part)].flatten(1).float().cpu().numpy(), part, options.dtype)


def extract(options: argparse.Namespace) -> None:
    h5py = need("h5py", "h5py", "writing features")
    torch = need("torch", "torch", "running a network")
    check_device(options.device, torch)
    images: list[tuple[Path, int]] | list[tuple[Path, str]]
    if options.labels is not None:
        images = images_by_list(options.images, options.labels)
    else:
        images = images_by_folder(options.images)
    paths = [path for path, _ in images]

    def write_features(temporary: Path) -> None:
        features = None
        done = 0
        told = sys.stderr.isatty()
        try:
            with h5py.File(temporary, "w") as file:
                for rows in rows_of(paths, options, torch):
                    if features is None:
                        shape = (len(paths), rows.shape[1])
                        features = file.create_dataset("features", shape, options.dtype)
                    features[done : done + len(rows)] = rows
                    done += len(rows)
                    if told:
                        print(f"\r{done} of {len(paths)} images", end="", file=sys.stderr, flush=True)
        finally:
            if told and done > 0:
                print(file=sys.stderr)

    def write_labels(temporary: Path) -> None:
        # One a line.
        text = json.dumps([label for _, label in images], ensure_ascii=False, indent=0) + "\n"
        temporary.write_text(text, encoding="utf-8")

    labels = options.out.with_suffix(".labels.json")
    write_together([(options.out, write_features), (labels, write_labels)])
    print(f"wrote {options.out}\nwrote {labels}")


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument("out", type=Path, metavar="OUT.h5")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--model", help="a network of torchvision, by name")
    network.add_argument("--program", type=Path, metavar="FILE", help="an exported program, .pt2")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="parameters for --model (torchvision's own)")
    parser.add_argument("--layer", help="module of --model whose output is taken (the last linear layer's input)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="lines of a path, a tab and an integer")
    parser.add_argument("--size", type=positive, default=224, help="pixels a side (224)")
    parser.add_argument("--resize", type=positive, help="shorter side before cutting (size · 8/7)")
    parser.add_argument("--grey", action="store_true", help="one channel")
    parser.add_argument("--mean", type=numbers, help="per channel, of 0 … 1 (ImageNet's; grey: 0)")
    parser.add_argument("--std", type=numbers, help="per channel, of 0 … 1 (ImageNet's; grey: 1)")
    parser.add_argument("--batch-size", type=positive, default=32, help="images at once (32)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (cpu)")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="in the file (float32)")
    options = parser.parse_args(arguments)
    if options.out.suffix not in (".h5", ".hdf5"):
        parser.error(f"OUT.h5: expected a file name that ends in .h5 or .hdf5, got {str(options.out)!r}")
    if options.resize is None:
        options.resize = round(options.size * 8 / 7)
    options.mean = options.mean or ([0.0] if options.grey else [0.485, 0.456, 0.406])
    options.std = options.std or ([1.0] if options.grey else [0.229, 0.224, 0.225])
    channels = 1 if options.grey else 3
    if {len(options.mean), len(options.std)} - {1, channels} or not all(options.std):
        parser.error(f"--mean and --std: expected one number or {channels}, the latter not 0")
    if options.resize < options.size:
        parser.error(f"--resize: expected at least --size {options.size}, got {options.resize}")
    if (options.layer or options.weights) and not options.model:
        parser.error("--layer and --weights go with --model")
    try:
        extract(options)
    except InputError as error:
        line = " ".join(str(error).splitlines())
        print(f"extract_features.py: {line[:2000]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
