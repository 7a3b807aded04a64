"""Mutants of catalogs, object stores and metadata stores."""

from __future__ import annotations

from mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MANIFESTS = "catalog/_manifests.py"
FENCING = "catalog/_fencing.py"
OBJECT_FILES = "cloud/_object_files.py"
QUEUE = "metadata/_commit_queue.py"
JOURNAL = "metadata/_journal.py"
RECOVERY = "metadata/_recovery.py"
TABLE = "metadata/_table.py"
FORMAT = "metadata/_format.py"

MUTANTS = (
    # ---- the catalog
    Mutant(
        "a manifest counts although later ones exist",
        MANIFESTS,
        "            if await self._superseded(after.sequence):\n                raise",
        "            if False:\n                raise",
        ("test_catalog_fencing.py::test_a_cancelled_change_comes_first_next_time",),
    ),
    Mutant(
        "another writer's manifest of the same number passes for ours",
        MANIFESTS,
        "if found.nonce == after.nonce:",
        "if True:",
        ("test_catalog_fencing.py::test_all_openers_get_through_one_after_the_other",),
    ),
    Mutant(
        "a manifest is believed without a second look",
        MANIFESTS,
        "if got is None or await self._superseded(sequence):",
        "if got is None:",
        ("test_catalog_store.py::test_a_reader_does_not_take_a_revenant_for_the_newest",),
    ),
    Mutant(
        "a catalog that went back is believed",
        MANIFESTS,
        "if known and (top is None or top < seen):",
        "if False:",
        ("test_catalog_store.py::test_a_history_that_ends_before_what_was_seen_is_corruption",),
    ),
    Mutant(
        "a page that is missing counts as one without segments",
        MANIFESTS,
        "        if None in pages:\n",
        "        if False:\n",
        ("test_catalog_store.py::test_damage_is_named",),
    ),
    Mutant(
        "a fenced session publishes on",
        FENCING,
        "        if self.fenced is not None:\n            raise",
        "        if False:\n            raise",
        ("test_catalog_fencing.py::test_a_fenced_session_stays_fenced",),
    ),
    Mutant(
        "a change whose answer was lost is forgotten",
        FENCING,
        "            self._pending = fresh(after)\n            await self._settle()\n",
        "            self._became(await self._catalog.publish(self._state, fresh(after)))\n",
        ("test_catalog_fencing.py::test_a_change_whose_answer_is_lost_comes_first_next_time",),
    ),
    Mutant(
        "a change that a fence cut off passes for done",
        FENCING,
        "    return [d and d.object_id for d in found] == [d.object_id for d in added]",
        "    return len(found) == len(added)",
        ("test_catalog_fencing.py::test_a_fenced_session_stays_fenced",),
    ),
    Mutant(
        "a metadata catalog does not compare its head",
        "catalog/_danube.py",
        "            self._keys.head: look.head.revision if look.head else 0,\n",
        "",
        ("test_catalog_danube.py::test_a_take_over_that_looked_before_a_change_does_not_undo_it",),
    ),
    Mutant(
        "a metadata catalog does not compare its epoch",
        "catalog/_danube.py",
        "            self._keys.epoch: look.epoch.revision if look.epoch else 0,\n",
        "",
        equivalent="every publication writes the head, which is compared: see the comment",
    ),
    # ---- directory stores
    Mutant(
        "an object in a directory is not synced",
        OBJECT_FILES,
        "        self.file.sync_data()\n        self.file.close()\n",
        "        self.file.close()\n",
        (
            "test_directory_store.py::test_a_power_cut_leaves_what_was_answered_and_never_half_an_object",
        ),
    ),
    Mutant(
        "the name of a replaced object is not synced",
        OBJECT_FILES,
        "            temporary.gone = True\n        self._sync_names(parent_of(target))\n",
        "            temporary.gone = True\n",
        (
            "test_directory_store.py::test_a_power_cut_leaves_what_was_answered_and_never_half_an_object",
        ),
    ),
    Mutant(
        "the name of a new object is not synced",
        OBJECT_FILES,
        "self._disk.link(temporary.path, target)\n"
        "                    self._sync_names(parent_of(target))\n",
        "self._disk.link(temporary.path, target)\n",
        (
            "test_directory_store.py::test_a_power_cut_leaves_what_was_answered_and_never_half_an_object",
        ),
    ),
    Mutant(
        "a name is not synced for who finds the object there",
        OBJECT_FILES,
        "        self._sync_names(parent_of(target))\n        raise",
        "        raise",
        ("test_directory_store.py::test_a_create_that_lost_is_about_something_durable",),
    ),
    Mutant(
        "a failed sync of a store's directory is forgotten",
        OBJECT_FILES,
        "                self._failed[directory] = error\n",
        "",
        ("test_directory_store.py::test_after_a_failed_sync_of_names_nothing_is_told_about_them",),
    ),
    Mutant(
        "a failed sync above a new directory is forgotten",
        OBJECT_FILES,
        "                    self._failed[error.filename] = error\n",
        "                    pass\n",
        ("test_directory_store.py::test_a_failed_sync_of_names_is_one_for_all_who_change_them",),
    ),
    Mutant(
        "swap does not compare",
        OBJECT_FILES,
        "            if expected is not None:\n",
        "            if False:\n",
        ("test_directory_store.py::test_an_object_cannot_be_a_directory",),
    ),
    Mutant(
        "a range has a byte too many",
        OBJECT_FILES,
        "stop = size if end is None else min(end, size)",
        "stop = size if end is None else min(end + 1, size)",
        ("test_stores.py::test_a_directory_keeps_the_rules",),
    ),
    # ---- metadata
    Mutant(
        "compare-and-swap does not see the earlier ones of its batch",
        TABLE,
        "        revision = self._revisions.get(key)\n",
        "        revision = None\n",
        ("test_metadata_embedded.py::test_it_keeps_the_contract_on_the_simulated_disk",),
    ),
    Mutant(
        "an expectation is not compared",
        TABLE,
        "if self._revision_of(key) != revision:",
        "if False:",
        ("test_metadata_memory.py::test_it_keeps_the_contract",),
    ),
    Mutant(
        "what has just ended is still there",
        TABLE,
        "self.deadline is not None and self.deadline <= now",
        "self.deadline is not None and self.deadline < now",
        ("test_metadata_expiry.py::test_an_entry_has_ended_at_its_deadline",),
    ),
    Mutant(
        "what was put again ends with the time that it had before",
        TABLE,
        " and key not in self._revisions:\n                ended",
        ":\n                ended",
        ("test_metadata_expiry.py::test_the_first_call_after_the_end_finds_nothing",),
    ),
    Mutant(
        "a metadata batch is not synced",
        JOURNAL,
        "        self._file.sync_data()\n        self.position += len(data)\n",
        "        self.position += len(data)\n",
        ("test_metadata_crash.py::test_every_crash_state_recovers",),
    ),
    Mutant(
        "a new journal's name is not synced",
        JOURNAL,
        "names.journal(header.base))\n    disk.sync_dir(names.directory)\n",
        "names.journal(header.base))\n",
        ("test_metadata_crash.py::test_every_crash_state_recovers",),
    ),
    Mutant(
        "a new snapshot's name is not synced",
        JOURNAL,
        "names.snapshot)\n    disk.sync_dir(names.directory)\n",
        "names.snapshot)\n",
        ("test_metadata_crash.py::test_every_crash_state_recovers",),
    ),
    Mutant(
        "a snapshot is not synced before it is put in place",
        JOURNAL,
        "        file.write_at(data, 0)\n        file.sync_data()\n",
        "        file.write_at(data, 0)\n",
        ("test_metadata_crash.py::test_every_crash_state_recovers",),
    ),
    Mutant(
        "a torn tail above the mark is not written again",
        JOURNAL,
        "        if tail:\n",
        "        if False:\n",
        ("test_metadata_crash.py::test_any_failing_call_loses_nothing_that_was_acknowledged",),
    ),
    Mutant(
        "damage below the mark of a journal is cut off",
        RECOVERY,
        "            if at >= mark.position:\n                break",
        "            if True:\n                break",
        equivalent="what is behind the loop refuses it, too: see the comment",
    ),
    Mutant(
        "a journal that ends below its mark is taken for whole",
        RECOVERY,
        "    if at < mark.position:\n",
        "    if False:\n",
        ("test_metadata_crash.py::test_every_cut_of_the_journal_is_noticed",),
    ),
    Mutant(
        "a batch's checksum is ignored",
        FORMAT,
        "if crc32(_BATCH_TIE.pack(length, first, position, tie) + body) != crc:",
        "if False:",
        ("test_metadata_crash.py::test_every_crash_state_recovers",),
    ),
    Mutant(
        "a snapshot's checksum is ignored",
        FORMAT,
        "if len(body) != length or crc32(body) != crc:",
        "if len(body) != length:",
        ("test_metadata_crash.py::test_every_flipped_bit_is_noticed_or_harmless",),
    ),
    Mutant(
        "a write that was taken can be cancelled",
        QUEUE,
        "if job.taken or job.leads or job.error is not None:",
        "if job.leads or job.error is not None:",
        ("test_metadata_commit_queue.py::test_what_was_cancelled_was_not_done",),
    ),
    Mutant(
        "a broken metadata store writes on",
        QUEUE,
        "        self.broken = error\n",
        "        pass\n",
        ("test_metadata_commit_queue.py::test_what_was_cancelled_was_not_done",),
    ),
)
