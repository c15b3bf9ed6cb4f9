"""Vision and audio modules by name."""

from saereg_plugin.sources.modules.loaded import LoadedModule, Prepared
from saereg_plugin.sources.modules.opening import (
    EMBEDDED,
    embedded_module_folder,
    load_module,
    module_facts,
    module_identity,
)

__all__ = [
    "EMBEDDED",
    "LoadedModule",
    "Prepared",
    "embedded_module_folder",
    "load_module",
    "module_facts",
    "module_identity",
]
