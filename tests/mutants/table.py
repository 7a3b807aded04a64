"""All mutants."""

from __future__ import annotations

from mutants import dispatch, engine, stores
from mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS: tuple[Mutant, ...] = (*engine.MUTANTS, *stores.MUTANTS, *dispatch.MUTANTS)
