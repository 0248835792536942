"""The target of ``run``, a file or a module, with a class or without: loaded, or refused."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from ..counting.errorgroups import place_of
from ..crawler import Crawler
from ..errors import TargetError, one_line


def load_target(target: str) -> type[Crawler]:
    """The crawler class that a target names.

    Raises:
        TargetError: There is no such file, module or class; it cannot be imported; it holds no
            crawler, or several of which none was named.
    """
    if "://" in target:
        raise TargetError(
            f"{target} is a URL, and the first word is the crawler; put it before that, as in "
            f"'run shop.py {target}'"
        )
    where, colon, name = target.rpartition(":")
    if not colon or not name.isidentifier():
        where, name = target, ""
    is_file = where.endswith(".py") or "/" in where or os.sep in where
    try:
        module = _load_file(Path(where)) if is_file else _load_module(where)
    except OSError as error:
        raise TargetError(
            f"{where} cannot be read: {error.strerror}; see who may read it, and its directory"
        ) from None
    return _named(module, where, name) if name else _only(module, where)


# -- files and modules ------------------------------------------------------------------------


def _load_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise TargetError(f"{path} is a directory; name a file in it, such as {path / 'shop.py'}")
    if not path.is_file():
        files = (str(file) for file in sorted(path.parent.glob("*.py")))
        raise TargetError(f"there is no file {path}{_meant(str(path), files)}")
    path = path.resolve()
    root = path.parent
    parts = [path.stem]
    while (root / "__init__.py").exists():  # so that its relative imports work
        parts.insert(0, root.name)
        root = root.parent
    _import_from(root)
    if len(parts) > 1:
        return _import(".".join(parts), path)
    # A file may have the name of a module that is loaded already, such as json.py.
    name = path.stem if path.stem not in sys.modules else f"crawlkit_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _not_loaded(path, error) from error
    return module


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{name!r} is neither a file nor a module; name one, such as shop.py")
    _import_from(Path.cwd())
    return _import(name, name)


def _import_from(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _import(name: str, shown: object) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _not_loaded(shown, error) from error
        parent = error.name.rpartition(".")[0]
        places = list(sys.modules[parent].__path__) if parent in sys.modules else [os.getcwd()]
        known = (f"{parent}.{m.name}".lstrip(".") for m in pkgutil.iter_modules(places))
        raise TargetError(f"there is no module {error.name}{_meant(error.name, known)}") from None
    except (Exception, SystemExit) as error:
        raise _not_loaded(shown, error) from error


def _not_loaded(shown: object, error: BaseException) -> TargetError:
    if isinstance(error, SyntaxError):
        file = Path(error.filename).name if error.filename else Path(str(shown)).name
        line = f":{error.lineno}" if error.lineno else ""
        return TargetError(f"{file}{line}: syntax error: {error.msg}")
    return TargetError(
        f"{place_of(error) or shown}: the target cannot be imported: {one_line(error)}"
    )


# -- classes ----------------------------------------------------------------------------------


def made(kind: type[Crawler], options: dict[str, Any]) -> Crawler:
    """A crawler of this class.

    Raises:
        TargetError: Its class has an ``__init__`` that does not take options, or that leaves out
            the one that it overrides.
    """
    remedy = "write: def __init__(self, **options): super().__init__(**options)"
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise TargetError(
            f"{kind.__name__}.__init__ does not take the options of a crawler ({error}); {remedy}"
        ) from None
    crawler = kind(**options)
    if not hasattr(crawler, "job"):
        raise TargetError(f"{kind.__name__}.__init__ does not call that of Crawler; {remedy}")
    return crawler


def _named(module: ModuleType, where: str, name: str) -> type[Crawler]:
    found = getattr(module, name, None)
    if found is None:
        known = (crawler.__name__ for crawler in _crawlers(module))
        raise TargetError(f"there is no class {name} in {where}{_meant(name, known)}")
    if not (isinstance(found, type) and issubclass(found, Crawler)):
        raise TargetError(
            f"{name} in {where} is no crawler; it must be a class that inherits crawlkit.Crawler"
        )
    return found


def _only(module: ModuleType, where: str) -> type[Crawler]:
    crawlers = _crawlers(module)
    if not crawlers:
        raise TargetError(
            f"there is no crawler in {where}; write a class that inherits crawlkit.Crawler"
        )
    if len(crawlers) > 1:
        names = ", ".join(crawler.__name__ for crawler in crawlers)
        raise TargetError(
            f"there are several crawlers in {where} ({names}); say which: "
            f"{where}:{crawlers[0].__name__}"
        )
    return crawlers[0]


def _crawlers(module: ModuleType) -> list[type[Crawler]]:
    """The crawlers that a module defines; those that others of them inherit are not meant."""
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Crawler)
        and value.__module__ == module.__name__
    ]
    own = list(dict.fromkeys(own))
    return [
        one for one in own if not any(other is not one and issubclass(other, one) for other in own)
    ]


def _meant(name: str, known: Iterable[str]) -> str:
    """A suggestion, to be put at the end of a message."""
    known = list(known)
    if near := get_close_matches(name, known, n=1):
        return f"; did you mean {near[0]}?"
    return f"; there is {', '.join(known[:10])}" if known else ""
