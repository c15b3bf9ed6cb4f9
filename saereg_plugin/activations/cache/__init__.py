"""Caches of activations on disk: written once, replayed bit for bit."""

from saereg_plugin.activations.cache.index import INDEX as INDEX
from saereg_plugin.activations.cache.index import KIND as KIND
from saereg_plugin.activations.cache.index import CacheIndex as CacheIndex
from saereg_plugin.activations.cache.replay import CacheConfig as CacheConfig
from saereg_plugin.activations.cache.replay import CachedInputs as CachedInputs
from saereg_plugin.activations.cache.replay import CacheSource as CacheSource
from saereg_plugin.activations.cache.replay import describe_cache as describe_cache
from saereg_plugin.activations.cache.replay import open_cache as open_cache
from saereg_plugin.activations.cache.writer import write_cache as write_cache
