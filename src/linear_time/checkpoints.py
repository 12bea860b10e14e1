"""Chapter 03: read a model's folder safely, or say clearly why not.

A folder in the Hugging Face layout has the settings in ``config.json`` and
the tensors in ``model.safetensors``, or in several such files that
``model.safetensors.index.json`` lists. Nothing else is opened: a pickled
``pytorch_model.bin`` could run any code when it is read.

What such a folder may say, and how its keys name a model's tensors, is a
``Layout``: a table beside each model that is loaded from folders.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linear_time import _validate

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
REQUIRED = object()  # in the place of a default: there is none


def _path(folder: Any) -> Path:
    """What pathlib says of anything else differs between Pythons."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(
            f"folder: expected a path, got {_validate.describe(folder)}"
        )
    return Path(folder)


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and the tensors of a folder.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``, or the
            index and the files it names.

    Returns:
        (config, tensors): the settings as JSON gives them, and every tensor
        under the file's own key, on the CPU.

    Raises:
        TypeError: folder is no path.
        FileNotFoundError: the folder or a file is missing.
        ValueError: a file is damaged, is no safetensors file, or does not
            hold what the index says; or the weights are pickled.

    Source: the safetensors format, huggingface.co/docs/safetensors.
    """
    folder = _path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"folder: expected a folder with {CONFIG} and {SINGLE}, got "
            f"{str(folder)!r}, which is "
            + ("a file" if folder.exists() else "not there")
        )
    config = _read_json(folder / CONFIG)
    if (folder / SINGLE).exists():
        return config, _read_tensors(folder / SINGLE)
    if (folder / INDEX).exists():
        return config, _read_shards(folder)
    pickled = sorted(
        path.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt")
        for path in folder.glob(pattern)
    )
    if pickled:
        raise ValueError(
            f"folder: expected {SINGLE}, got only {', '.join(pickled)} in "
            f"{str(folder)!r}: pickled weights can run code when they are "
            "read, so they are not; save them as safetensors where you trust "
            "them"
        )
    raise FileNotFoundError(
        f"folder: expected {SINGLE} or {INDEX} in {str(folder)!r}, got neither"
    )


def setting(
    config: Mapping[str, Any],
    name: str,
    kind: type | tuple[type, ...],
    default: Any = REQUIRED,
) -> Any:
    """One entry of the settings, of the right type.

    Args:
        config: the settings, as ``read`` gives them.
        name: the entry's key.
        kind: its type, or types; bool counts as a number only if named.
        default: used where the entry is missing or null; without one that
            is an error.

    Raises:
        ValueError: the entry is missing or of another type.
    """
    value = config.get(name)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(each.__name__ for each in kinds)
    if value is None:
        if default is REQUIRED:
            raise ValueError(
                f"{CONFIG}: expected {name} ({wanted}), got "
                + ("null" if name in config else "no such key")
            )
        return default
    # A bool is an int to Python.
    if not isinstance(value, kinds) or (type(value) is bool not in kinds):
        raise ValueError(
            f"{CONFIG}: expected {name} to be {wanted}, "
            f"got {_validate.describe(value)}"
        )
    return value


class Setting(NamedTuple):
    """Where an argument of a model stands in ``config.json``."""

    name: str
    kind: type | tuple[type, ...]
    default: Any = REQUIRED
    inside: str | None = None  # an object of the settings that may hold it


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the folders of one kind of model may say, as data."""

    #: Of each argument of the model: where it stands.
    settings: Mapping[str, Setting]
    #: What ``model_type`` must be; None: no such setting is asked for.
    model_type: str | None = None
    #: What a setting must be where it is there, at the top or in an object
    #: that ``settings`` names: another value is another model.
    only: Mapping[str, Any]
    #: Of each part of the model, by its own name: the file's. ``*`` is a
    #: number; the rest of a tensor's name is the same on both sides.
    keys: Mapping[str, str]
    #: Keys of one matrix, which a writer may store under any of them, or
    #: under several: the first is the file's key of the model's tensor. A
    #: head that is not tied is a tensor of the model, and none of them.
    same: tuple[str, ...] = ()
    #: Ends of keys that say nothing new, and are ignored.
    derived: tuple[str, ...] = ()

    def arguments(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """The arguments of the model, from the settings of a folder.

        Args:
            config: the settings.
            tensors: what the folder holds. A size that is larger than all
                its numbers together is refused before a model is made.

        Raises:
            ValueError: a setting is missing, is of another type, says what
                the model does not have, or is no size of these tensors.
        """
        if self.model_type is not None:
            found = setting(config, "model_type", str)
            _check_only("model_type", found, self.model_type)
        objects = {
            entry.inside: setting(config, entry.inside, dict, {})
            for entry in self.settings.values()
            if entry.inside is not None
        }
        for where in (config, *objects.values()):
            for name, only in self.only.items():
                if where.get(name) is not None:
                    _check_only(name, where[name], only)
        most = None
        if tensors is not None:
            most = sum(value.numel() for value in tensors.values())
        found = {}
        for argument, entry in self.settings.items():
            where = config
            if entry.inside is not None:
                inside = objects[entry.inside]
                where = config if inside.get(entry.name) is None else inside
            found[argument] = setting(
                where, entry.name, entry.kind, entry.default
            )
            if most is not None and type(found[argument]) is int:
                _check_most(entry.name, found[argument], most)
        return found

    def key(self, name: str) -> str:
        """The file's key of a tensor, from the model's own name of it."""
        for ours, theirs in self.keys.items():
            pattern = re.escape(ours).replace(r"\*", r"(\d+)")
            match = re.match(rf"{pattern}(?=\.|$)", name)
            if match:
                for number in match.groups():
                    theirs = theirs.replace("*", number, 1)
                return theirs + name[match.end() :]
        return name

    def load(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Copy a folder's tensors into a model: all of them, or none.

        Raises:
            ValueError: as the function ``load``; or one matrix stands under
                two keys with different values.
        """
        wanted = {self.key(name) for name in model.state_dict()}
        tensors = {
            key: value
            for key, value in tensors.items()
            if not key.endswith(self.derived)
        }
        for key in self.same[1:]:
            if key not in tensors or key in wanted:
                continue
            value = tensors.pop(key)
            first = tensors.setdefault(self.same[0], value)
            if not _equal(first, value):
                raise ValueError(
                    f"{key}: expected the values of {self.same[0]}, since "
                    "both name one matrix, got others"
                )
        load(model, tensors, self.key)

    def write(
        self,
        folder: str | Path,
        model: nn.Module,
        arguments: Mapping[str, Any],
        **others: Any,
    ) -> None:
        """Leave a folder from which a model of this layout is loaded.

        Args:
            folder: made where it is not there; files in it are replaced.
            model: whose ``state_dict`` is written, in its own precision.
            arguments: the model's, of those in ``settings``.
            **others: further entries of the settings, for other readers.

        Raises:
            TypeError: folder is no path.
            ValueError: a setting that has no default is not among them.
        """
        folder = _path(folder)
        config = {k: v for k, v in self.only.items() if v} | others
        if self.model_type is not None:
            config["model_type"] = self.model_type
        for name, entry in self.settings.items():
            if name in arguments:
                config[entry.name] = arguments[name]
            elif entry.default is REQUIRED:
                raise ValueError(f"arguments: expected {name}, got none")
        tensors = {
            self.key(name): value.detach().cpu().contiguous()
            for name, value in model.state_dict().items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf8")
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


class Folder(NamedTuple):
    """A folder of a model, read: its layout, arguments and tensors."""

    layout: Layout
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]


def read_either(
    folder: str | Path, released: Layout, hugging_face: Layout
) -> Folder:
    """A folder of a model's released code or of Hugging Face.

    The released code of Mamba fills its embedding up to a multiple of a
    number: the argument ``fill`` of its layout becomes ``rows``.

    Args:
        folder: as for ``read``.
        released, hugging_face: the two layouts.

    Raises:
        FileNotFoundError, ValueError: as ``read`` and ``Layout.arguments``.
    """
    config, tensors = read(folder)
    theirs = "d_model" in config and "model_type" not in config
    layout = released if theirs else hugging_face
    arguments = layout.arguments(config, tensors)
    fill = arguments.pop("fill", 1)
    _validate.count(f"{CONFIG}: pad_vocab_size_multiple", fill)
    vocab_size = arguments["vocab_size"]
    arguments["rows"] = vocab_size + -vocab_size % fill
    return Folder(layout, arguments, tensors)


@torch.no_grad()
def load(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    rename: Callable[[str], str] = str,
) -> None:
    """Copy tensors into a model, in place: all of them, or none.

    Everything is checked first: every tensor of the model has one of its
    shape, finite in the model's dtype, and no tensor is left over. Only then
    is anything copied, into the model's own dtype and device.

    Args:
        model: parameters and persistent buffers are what it needs.
        tensors: by the file's keys.
        rename: gives the file's key from the model's; messages name the
            file's. The same by default.

    Raises:
        ValueError: a key is missing or left over, two of the model's names
            share one, or a tensor has another shape or kind of number, or
            is not finite. The model is as before.
    """
    own: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        key = rename(name)
        if key in own:
            raise ValueError(
                f"rename: expected a key for each tensor, got {key} for two"
            )
        own[key] = value
    problems = [
        f"{key}: expected a tensor of shape "
        f"{_validate.shape_text(own[key].shape)}, got no such key"
        for key in own
        if key not in tensors
    ]
    problems += [
        f"{key}: expected no such key, got {_validate.describe(value)}"
        for key, value in tensors.items()
        if key not in own
    ]
    for key in own.keys() & tensors.keys():
        problem = _mismatch(own[key], tensors[key])
        if problem is not None:
            problems.append(f"{key}: {problem}")
    if problems:
        shown, more = sorted(problems)[:8], len(problems) - 8
        end = f"\n… and {more} more" if more > 0 else ""
        raise ValueError("\n".join(shown) + end)
    for key, value in own.items():
        value.copy_(tensors[key])


def _check_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(
            f"{CONFIG}: expected {name} to be at most {most}, as many numbers "
            f"as the folder holds, got {value}"
        )


def _check_only(name: str, value: Any, only: Any) -> None:
    if value != only:
        raise ValueError(
            f"{CONFIG}: expected {name} = {only!r}, the only one supported, "
            f"got {value!r}"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether the values are the same, in the wider of two dtypes."""
    dtype = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(dtype), other.to(dtype))


def _mismatch(own: Tensor, given: Tensor) -> str | None:
    """What keeps a tensor from taking another's place; None: nothing."""
    if given.shape != own.shape:
        return (
            f"expected shape {_validate.shape_text(own.shape)}, "
            f"got shape {_validate.shape_text(given.shape)}"
        )
    for kind in ("is_floating_point", "is_complex"):
        if getattr(own, kind)() != getattr(given, kind)():
            return f"expected a dtype like {own.dtype}, got {given.dtype}"
    # As the model will hold it: a large float64 is infinite in float32.
    bad = int((~torch.isfinite(given.to(own.dtype))).sum())
    if bad:
        return (
            f"expected finite values in {own.dtype}, got {bad} that are NaN "
            f"or infinite among {given.numel()}"
        )
    return None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name}: expected this file in {str(path.parent)!r}, got none"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path.name}: expected JSON, got a damaged file ({error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path.name}: expected a JSON object, "
            f"got {_validate.describe(content)}"
        )
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name}: expected this file in {str(path.parent)!r}, got none"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path.name}: expected a whole safetensors file, got a damaged "
            f"one or another format ({error})"
        ) from error


def _read_shards(folder: Path) -> dict[str, Tensor]:
    """The tensors of all files that the index names, each where it says."""
    places = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(
            f"{INDEX}: expected weight_map, an object from keys to files, "
            f"got {_validate.describe(places)}"
        )
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(map(str, places.values()))):
        # A plain name: the index must not lead out of the folder.
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(
                f"{INDEX}: expected names of .safetensors files in the "
                f"folder, got {file!r}"
            )
        wanted = {key for key, place in places.items() if place == file}
        found = _read_tensors(folder / file)
        for key in sorted(wanted ^ found.keys()):
            here, there = "in it", "not in it"
            listed, held = (here, there) if key in wanted else (there, here)
            raise ValueError(
                f"{file}: {INDEX} says that {key} is {listed}, and it is {held}"
            )
        tensors.update(found)
    return tensors
