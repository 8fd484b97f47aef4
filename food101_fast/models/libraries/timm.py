"""The classification models of timm, by the names of `timm.create_model`; needs the extra `timm`.

timm and the hub's client are imported only where a name starts with `timm/`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, cast

import orjson
from torch import nn

from food101_fast.errors import UserError
from food101_fast.models.backbone import Backbone
from food101_fast.transforms import InputSpec

_PREFIX = "timm/"
_HUB = ("hf-hub:", "hf_hub:")
_REACHABLE_SECONDS = 5.0


class Timm:
    """The models of timm: `timm/NAME`, `timm/NAME.TAG` with the weights of this tag, or `timm/hf-hub:USER/NAME`.

    A stored name may also have arguments of `timm.create_model`, as JSON after a question mark.
    """

    catalog = "timm (timm.list_models(), as timm/NAME)"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(_PREFIX)

    def check(self, name: str) -> None:
        """Check that timm is installed and has such an architecture; names on the hub are not looked up.

        Raises:
            UserError: it isn't, or it has none.
        """
        if importlib.util.find_spec("timm") is None:
            raise UserError(f"--model {name} needs the extra timm: pip install 'food101-fast[timm]'")
        import timm

        plain, _ = _parsed(name)
        if ":" in plain:
            if not plain.startswith(_HUB) and not plain.startswith("local-dir:"):
                raise UserError(f"--model {name} should be timm/NAME, timm/hf-hub:USER/NAME or timm/local-dir:FOLDER")
            return
        architecture, _, tag = plain.partition(".")
        if not timm.is_model(architecture):
            near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(_PREFIX + one for one in near)}?" if near else "timm.list_models() has all"
            )
            raise UserError(f"timm has no model {architecture!r}; {hint}")
        tags = _tags(architecture)
        if tag and tag not in tags:
            known = f"choose from {', '.join(tags)}" if tags else "leave the tag out"
            raise UserError(f"timm's {architecture} has no weights {tag!r}; {known}")

    def stored_name(self, name: str) -> str:
        """The architecture behind a name on the hub, which its configuration there tells; other names are themselves.

        Raises:
            UserError: the configuration can't be downloaded.
        """
        plain, _ = _parsed(name)
        if ":" not in plain:
            return name
        _, architecture, arguments = _configuration(plain)
        return f"{_PREFIX}{architecture}" + (f"?{orjson.dumps(arguments).decode()}" if arguments else "")

    def inputs(self, name: str, weights: str) -> InputSpec:
        """What timm's configuration of the weights says, in `pretrained_cfg`.

        Raises:
            UserError: there are no such weights, or the configuration on the hub can't be downloaded.
        """
        plain, _ = _parsed(name)
        architecture = plain.partition(".")[0]
        if ":" not in plain and weights in _tags(architecture):
            plain = f"{architecture}.{weights}"
        cfg = _weights_configuration(plain)
        mean, std = (tuple(cfg[key]) * (3 if len(cfg[key]) == 1 else 1) for key in ("mean", "std"))
        bilinear = cfg["interpolation"] in ("bilinear", "nearest")
        return InputSpec(
            mean=cast(tuple[float, float, float], mean),
            std=cast(tuple[float, float, float], std),
            interpolation="bilinear" if bilinear else "bicubic",
            size=cfg["input_size"][-1],
        )

    def network(self, backbone: Backbone, weights: str, classes: int) -> nn.Module:
        """A network as timm makes it for this number of classes; a head for the same number keeps its weights.

        Where a network is built for one size, it is built for the backbone's, and timm resamples the weights' tables
        of positions.

        Raises:
            UserError: there are no such weights, they can't be downloaded, or the network has no stochastic depth.
        """
        name = _with_tag(backbone.name, weights)
        plain, arguments = _parsed(name)
        cfg = _weights_configuration(plain)
        pretrained = weights != "none"
        if pretrained and not any(cfg.get(source) for source in ("url", "file", "hf_hub_id")):
            tags = _tags(plain.partition(".")[0])
            others = f"choose from {', '.join(tags)}, or pass" if tags else "pass"
            raise UserError(f"timm has no weights {weights} for {name}; {others} --weights FILE or --weights none")
        arguments = {"num_classes": classes, **arguments}
        if cfg["input_size"][0] != 3:
            arguments["in_chans"] = 3
        size, rate = backbone.image_size, backbone.drop_path
        if size is not None and cfg.get("fixed_input_size") and size != cfg["input_size"][-1]:
            arguments["img_size"] = size
        if rate is not None:
            arguments["drop_path_rate"] = rate
        model = _created(name, plain, pretrained=pretrained, arguments=arguments)
        if rate and not any(getattr(module, "drop_prob", 0) for module in model.modules()):
            raise _no_drop_path(name)
        return model


def _created(name: str, plain: str, *, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    """Call `timm.create_model`.

    Raises:
        UserError: it has no stochastic depth, or its weights can't be downloaded.
    """
    import timm

    try:
        with _hub() if pretrained or ":" in plain else contextlib.nullcontext():
            return timm.create_model(plain, pretrained=pretrained, **arguments)
    except OSError as error:
        raise _not_downloaded(f"the weights of {name}", error) from error
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        if isinstance(error, TypeError) and "drop_path_rate" in str(error):
            raise _no_drop_path(name) from error
        if "img_size" not in arguments:
            raise
    # Not all networks can be built for another size. `check_sizes` then says which sizes they take.
    others = {key: value for key, value in arguments.items() if key != "img_size"}
    return _created(name, plain, pretrained=pretrained, arguments=others)


def _no_drop_path(name: str) -> UserError:
    return UserError(f"{name} has no stochastic depth; leave --drop-path out, or choose another --model")


def _parsed(name: str) -> tuple[str, dict[str, Any]]:
    """The name for timm, and arguments that a stored name has."""
    plain, _, arguments = name.removeprefix(_PREFIX).partition("?")
    return plain, orjson.loads(arguments) if arguments else {}


def _with_tag(name: str, weights: str) -> str:
    """The name with the tag of its weights, where these are named apart from it."""
    plain, _ = _parsed(name)
    architecture = plain.partition(".")[0]
    if ":" in plain or weights in ("none", "DEFAULT"):
        return name
    tags = _tags(architecture)
    if weights in tags:
        return f"{_PREFIX}{architecture}.{weights}"
    raise UserError(
        f"{name} has no weights {weights!r}; choose from {', '.join(['DEFAULT', *tags])}, none, or the path of a "
        ".safetensors or .pth file"
    )


def _tags(architecture: str) -> list[str]:
    """Names of an architecture's pretrained weights."""
    import timm

    return [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]


def _weights_configuration(plain: str) -> dict[str, Any]:
    """What timm knows of a model's weights: the fields of its `PretrainedCfg`.

    Raises:
        UserError: it is on the hub and can't be downloaded.
    """
    import timm
    from timm.models._pretrained import PretrainedCfg

    defaults = vars(PretrainedCfg())
    if ":" in plain:
        return defaults | _configuration(plain)[0]
    found = timm.get_pretrained_cfg(plain)
    return defaults if found is None else vars(found)


def _configuration(plain: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The configuration of a model on the hub or in a folder: of its weights, its architecture, and its arguments.

    Raises:
        UserError: it can't be downloaded or read.
    """
    from timm.models import load_model_config_from_hf
    from timm.models._hub import load_model_config_from_path

    source, _, place = plain.partition(":")
    try:
        with _hub() if source != "local-dir" else contextlib.nullcontext():
            load = load_model_config_from_path if source == "local-dir" else load_model_config_from_hf
            cfg, architecture, arguments = load(place)
    except OSError as error:
        raise _not_downloaded(f"config.json of {plain}", error) from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{plain} is not a model of timm ({type(error).__name__}: {error}); give another --model"
        ) from error
    return cfg, architecture, arguments or {}


def _not_downloaded(what: str, error: OSError) -> UserError:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if isinstance(error, LocalEntryNotFoundError):
        reason = "the hub can't be reached, or HF_HUB_OFFLINE is set"
    return UserError(
        f"{what} could not be downloaded ({reason}); connect to the network, put it into the hub's cache "
        f"{constants.HF_HUB_CACHE}, or pass --weights FILE or --weights none"
    )


@contextlib.contextmanager
def _hub() -> Iterator[None]:
    """A context in which the hub's client uses its cache only if the hub can't be reached.

    The client itself retries for 24 seconds with each file, and prints a line each time. An answer of any kind, also
    an error, shows that the hub can be reached.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_REACHABLE_SECONDS).close()
        except urllib.error.HTTPError:
            pass
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
