"""What tests look at inside of an open log."""

from danube_trio import Wal
from danube_trio._engine.log.local_files import LocalFiles


def files_of(wal: Wal) -> LocalFiles:
    """Its shelf of files."""
    files = wal._engine.files
    assert files is not None
    return files
