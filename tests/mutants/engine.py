"""Mutants of the core and the engine: one log's files, tasks and readers."""

from __future__ import annotations

from mutants.mutant import Mutant

__all__ = ["MUTANTS"]

TAIL = "_engine/files/tail.py"
RECOVER = "_engine/files/recover.py"
SPACE = "_engine/files/space.py"
SET_ASIDE = "_engine/files/set_aside.py"
JANITOR = "_engine/log/janitor.py"
WAITERS = "_engine/wait/waiters.py"
ENGINE = "_engine/log/engine.py"
UPLOADER = "_engine/log/uploader.py"
SWEEPER = "_engine/log/sweeper.py"
VERIFY_UPLOAD = "_engine/log/verify_upload.py"
FILES = "_core/files.py"
FRAME = "_core/frame.py"
DELETE = "_engine/topics/delete.py"

MUTANTS = (
    # ---- syncs
    Mutant(
        "a commit is written, and not synced",
        TAIL,
        "self._file.write_durable_at(data, self.position)",
        "self._file.write_at(data, self.position)",
        ("test_durability_rules.py::test_rule_1_an_ack_follows_a_sync_that_began_after_the_write",),
    ),
    Mutant(
        "a sync of what was written is skipped",
        TAIL,
        "        self._file.sync_data()\n        self._unsynced = False\n",
        "        self._unsynced = False\n",
        (
            "test_durability_rules.py::test_rule_3_unsynced_bytes_are_bounded_and_a_batch_is_one_write",
        ),
    ),
    Mutant(
        "the mark is moved before the sync that it speaks of",
        TAIL,
        """        self._file.sync_data()
        self._unsynced = False
        self._mark.put(durable_end, self.base, self.position)
""",
        """        self._mark.put(durable_end, self.base, self.position)
        self._file.sync_data()
        self._unsynced = False
""",
        ("test_crash.py::test_every_crash_state_recovers",),
    ),
    Mutant(
        "a written record is acknowledged as durable",
        WAITERS,
        "self.on_written.release(end)",
        "self.on_written.release(end)\n        self.on_durable.release(end)",
        (
            "test_durability_rules.py::test_rule_1_a_flush_does_not_profit_from_a_write_that_is_under_way",
        ),
    ),
    Mutant(
        "a roll does not sync the directory",
        TAIL,
        "        self._begin(end)\n        self.sync_directory()\n",
        "        self._begin(end)\n",
        (
            "test_durability_rules.py::test_rules_5_and_7_a_roll_syncs_the_old_makes_the_new_syncs_the_directory_and_writes",
        ),
    ),
    Mutant(
        "sealing leaves the reserved rest in the file",
        TAIL,
        "        self.give_back()\n        self.sync(end)\n",
        "        self.sync(end)\n",
        (
            "test_durability_rules.py::test_rule_5_a_sealed_segment_is_exact_and_its_mark_durable_before_the_next_begins",
        ),
    ),
    Mutant(
        "sealing does not make the mark durable",
        TAIL,
        "        self.sync(end)\n        self._mark.sync()\n",
        "        self.sync(end)\n",
        (
            "test_durability_rules.py::test_rule_5_a_sealed_segment_is_exact_and_its_mark_durable_before_the_next_begins",
        ),
    ),
    Mutant(
        "a failed sync of the directory is forgotten",
        TAIL,
        "            self._failed = error\n",
        "",
        ("test_failures.py::test_after_a_failed_directory_sync_the_tail_writes_nothing",),
    ),
    Mutant(
        "what was written after a broken log's last sync passes for durable",
        ENGINE,
        "            return\n        end = self.marks.written_end\n",
        "            pass\n        end = self.marks.written_end\n",
        ("test_failures.py::test_a_sync_that_ends_after_the_log_broke_makes_nothing_durable",),
    ),
    # ---- the mark
    Mutant(
        "both marks go into one slot",
        FILES,
        "return (sequence & 1) * _SLOT_DISTANCE",
        "return 0 * sequence * _SLOT_DISTANCE",
        ("test_core_files.py::test_the_two_slots_are_a_sector_apart_and_taken_in_turn",),
    ),
    Mutant(
        "a mark's checksum is ignored",
        FILES,
        "            if crc32(slot[: _MARK.size]) == _CRC.unpack_from(slot, _MARK.size)[0]:\n",
        "            if True:\n",
        ("test_core_files.py::test_a_slot_that_is_damaged_or_torn_anywhere_leaves_the_other",),
    ),
    Mutant(
        "another directory's mark is believed",
        FILES,
        "ours = directory_crc in (None, directory)",
        "ours = True",
        ("test_core_files.py::test_the_mark_of_another_log_is_ignored",),
    ),
    Mutant(
        "a missing last segment is not noticed by the mark",
        "_engine/files/directory.py",
        "        expected.add(mark.base)\n",
        "        pass\n",
        ("test_durability_recovery.py::test_a_last_segment_that_only_the_mark_knows_of_is_missed",),
    ),
    Mutant(
        "only one slot of the mark is lowered before a cut",
        TAIL,
        "        file.put(end, base, position)\n        file.sync()",
        "        file.sync()",
        (
            "test_durability_recovery.py::test_rule_12_a_cut_lowers_the_mark_durably_before_it_truncates",
            "test_fencing.py::test_both_slots_of_the_mark_speak_of_the_log_after_a_tail_was_set_aside",
        ),
    ),
    Mutant(
        "the mark is not lowered before a cut below it",
        RECOVER,
        "            put_mark(self.disk, self.names, crc, *place, taken_back=not covered)\n",
        "",
        (
            "test_durability_recovery.py::test_rule_12_a_cut_lowers_the_mark_durably_before_it_truncates",
        ),
    ),
    # ---- recovery
    Mutant(
        "damage below the mark is cut off without being asked for",
        RECOVER,
        'if self.config.on_corruption == "refuse" and not covered:',
        "if False:",
        (
            "test_durability_recovery.py::test_a_damaged_record_below_the_mark_is_refused_and_nothing_is_changed",
        ),
    ),
    Mutant(
        "an opening serves what it has not synced",
        RECOVER,
        "            self._write_again(file, index)\n            file.sync_data()\n",
        "            self._write_again(file, index)\n",
        (
            "test_durability_recovery.py::test_rule_14_a_torn_tail_is_cut_even_if_whole_frames_follow",
        ),
    ),
    Mutant(
        "an opening does not write again what a failed sync may have lost",
        RECOVER,
        "            self._write_again(file, index)\n",
        "",
        (
            "test_after_failed_sync.py::test_what_is_served_after_a_failed_sync_survives_the_next_power_cut",
        ),
    ),
    Mutant(
        "an opening does not sync the directory before the mark speaks",
        RECOVER,
        "durable.\n            disk.sync_dir(names.directory)\n",
        "durable.\n",
        (
            "test_durability_recovery.py::test_the_name_of_the_first_segment_is_durable_before_the_mark_speaks_of_it",
        ),
    ),
    Mutant(
        "an empty last segment keeps a name that may not be durable",
        RECOVER,
        '            with_room(disk, names, partial(put_in_place, disk, path, b""))\n',
        "            pass\n",
        (
            "test_after_failed_sync.py::test_appends_after_a_failed_directory_sync_survive_a_power_cut",
        ),
    ),
    Mutant(
        "cut bytes are kept without a sync",
        RECOVER,
        "        copy.sync_data()\n",
        "",
        (
            "test_durability_recovery.py::test_rule_12_a_cut_lowers_the_mark_durably_before_it_truncates",
        ),
    ),
    # ---- the start
    Mutant(
        "a new start is written in place, and not synced",
        SPACE,
        "            file.write_at(copy, position)\n            file.sync_data()\n",
        "            file.write_at(copy, position)\n",
        ("test_trim_file.py::test_a_crash_at_every_step_leaves_the_old_start_or_the_new_one",),
    ),
    Mutant(
        "the copy of the start that is in doubt is written last",
        SPACE,
        "        return second, first\n",
        "        return first, second\n",
        ("test_trim_file.py::test_a_copy_that_is_damaged_is_written_before_the_whole_one",),
    ),
    Mutant(
        "of two copies of the start the one behind counts",
        FILES,
        'cast("T", max(found, key=_how_far))',
        'cast("T", min(found, key=_how_far))',
        ("test_trim_file.py::test_the_copy_that_is_further_counts",),
    ),
    Mutant(
        "a document's checksum is ignored",
        FILES,
        'if not newline or check != b"crc32 %08x\\n" % crc32(line + newline):',
        "if not newline:",
        ("test_core_files.py::test_a_document_that_is_damaged_anywhere_is_refused",),
    ),
    Mutant(
        "files go before the trim is durable",
        JANITOR,
        "            await self._save_trim(start, max(start, self._files.start))\n",
        "",
        (
            "test_housekeeping.py::test_an_opening_does_not_fail_for_a_leftover_that_cannot_be_removed",
        ),
    ),
    Mutant(
        "a trim does not wait for fetches",
        JANITOR,
        """            # No new fetch begins below the start, so these are the last ones.
            await engine.pins.released(start, stored=False)
""",
        "",
        ("test_pins.py::test_a_trim_removes_no_file_while_a_block_below_it_is_fetched",),
    ),
    Mutant(
        "pruning does not wait for fetches",
        JANITOR,
        """            gone = self._files.drop_before(start)
            await engine.pins.released(start, stored=False)
""",
        "            gone = self._files.drop_before(start)\n",
        ("test_pins.py::test_pruning_removes_no_file_while_a_block_of_it_is_fetched",),
    ),
    Mutant(
        "pruning removes files before the new local start is durable",
        JANITOR,
        "            await self._save_trim(engine.marks.start_offset, start)\n",
        "",
        ("test_housekeeping.py::test_no_local_file_goes_before_the_new_local_start_is_durable",),
    ),
    Mutant(
        "the directory is not synced after files were removed",
        JANITOR,
        "        await self._sync_directory()\n        for error in failed.values():\n",
        "        for error in failed.values():\n",
        ("test_housekeeping.py::test_names_that_a_trim_removed_are_synced",),
    ),
    # ---- retention
    Mutant(
        "retention by size frees a log that is just as large as it may be",
        "_core/retention.py",
        "size > max_bytes",
        "size >= max_bytes",
        ("test_core.py::test_a_log_that_is_just_as_large_as_it_may_be_stays",),
    ),
    Mutant(
        "retention by size forgets the active segment",
        "_core/retention.py",
        "for segment in segments) + active_bytes",
        "for segment in segments)",
        ("test_core.py::test_retention_frees_the_oldest_segments_while_there_is_a_reason",),
    ),
    Mutant(
        "retention frees the segment that has the floor",
        "_core/retention.py",
        "segment.end > floor",
        "segment.base > floor",
        ("test_core.py::test_retention_frees_the_oldest_segments_while_there_is_a_reason",),
    ),
    Mutant(
        "what retention wanted once is never taken back",
        "_engine/log/cloud_side.py",
        "        self.wanted_start = start\n",
        "        self.wanted_start = max(start, self.wanted_start)\n",
        ("test_retain_from.py::test_what_the_store_was_not_told_yet_is_taken_back",),
    ),
    Mutant(
        "a change that waits trims what retention wanted when it was begun",
        UPLOADER,
        """
        def trimmed(state: CatalogState) -> CatalogState:
            return cloud.trimmed(state, cloud.wanted_start)  # as it is wanted by then

""",
        "        trimmed = partial(cloud.trimmed, before=cloud.wanted_start)\n",
        ("test_retain_from.py::test_what_waits_for_a_change_before_it_is_taken_back_too",),
    ),
    # ---- topics that are deleted for good
    Mutant(
        "files of a deleted topic go before its new name is durable",
        DELETE,
        "        disk.sync_dir(parent_of(directory))\n        _remove_held",
        "        _remove_held",
        ("test_delete_for_good.py::test_what_is_removed_is_not_read_first",),
    ),
    Mutant(
        "the removal of a deleted topic's directory is not synced",
        DELETE,
        "    disk.sync_dir(parent_of(path))\n",
        "",
        ("test_delete_for_good.py::test_what_is_removed_is_not_read_first",),
    ),
    Mutant(
        "leftovers of a deleted topic are removed while their old name may come back",
        DELETE,
        "            disk.make_dir(directory)  # its name leads there after a crash, and not here\n"
        "            _remove_held(disk, left, going, going.directory)\n",
        "            _remove_held(disk, left, going, going.directory)\n"
        "            disk.make_dir(directory)\n",
        ("test_delete_for_good.py::test_a_failed_sync_brings_no_half_of_a_log_back",),
    ),
    Mutant(
        "files of somebody else's go with a deleted topic's directory",
        DELETE,
        "    if theirs:\n",
        "    if False:\n",
        ("test_delete_for_good.py::test_files_of_somebody_else_are_not_removed",),
    ),
    # ---- acceptance
    Mutant(
        "an append overtakes those that wait for room",
        "_core/log.py",
        "full = bool(self._queue) or not self._intake.has_room(size_bytes)",
        "full = not self._intake.has_room(size_bytes)",
        ("test_append_queue.py::test_what_would_fit_does_not_overtake_what_waits",),
    ),
    Mutant(
        "a wrong expected_offset is accepted",
        "_core/log.py",
        " or expected_offset != next_offset\n",
        "\n",
        ("test_wal.py::test_expected_offset_accepts_only_the_next_one",),
    ),
    Mutant(
        "an accepted append can be cancelled",
        "_engine/log/accept.py",
        "await cancel_shielded_checkpoint()",
        "await trio.lowlevel.checkpoint()",
        ("test_cancellation.py::test_a_cancelled_append_never_appears_and_any_other_does",),
    ),
    Mutant(
        "the intake refuses what fits exactly",
        "_core/log.py",
        "self.held_bytes + size_bytes <= self.limit_bytes",
        "self.held_bytes + size_bytes < self.limit_bytes",
        (
            "test_core.py::test_the_intake_has_room_up_to_its_limit_and_for_anything_when_it_holds_nothing",
        ),
    ),
    Mutant(
        "append times fall with the clock",
        "_core/log.py",
        "        if 0 <= now - last <= self.ahead_us:\n",
        "        if now - last <= self.ahead_us:\n",
        ("test_core.py::test_the_intake_makes_time_monotone",),
    ),
    # ---- reading
    Mutant(
        "readers see what is not durable",
        WAITERS,
        "self.written_end if self.early_visible else self.durable_end",
        "self.written_end",
        ("test_reader.py::test_readers_see_only_what_is_durable_unless_asked",),
    ),
    Mutant(
        "the seam between tiers is not checked",
        "_engine/read/reader.py",
        "                raise self._hole(piece)\n",
        "                self._cursor = cursor = piece.start\n",
        ("test_reader.py::test_what_does_not_hold_the_cursor_is_refused",),
    ),
    Mutant(
        "a record in the cache is read from the file",
        "_core/route.py",
        "if cursor >= cache_start:",
        "if cursor > cache_start:",
        ("test_core.py::test_the_route_goes_through_the_tiers_in_order",),
    ),
    Mutant(
        "a frame's checksum is ignored",
        FRAME,
        "if crc32(data[body:end]) != crc:",
        "if False:",
        ("test_frame.py::test_every_flipped_bit_ends_the_good_frames_where_it_is",),
    ),
    Mutant(
        "a frame's header is not compared with the trailer",
        FRAME,
        "if crc32(data[position : position + 12]) != check:",
        "if False:",
        ("test_frame.py::test_a_header_that_was_changed_to_fit_is_found_out_by_the_trailer",),
    ),
    Mutant(
        "a batch out of step is taken for whole",
        FRAME,
        "if left >= 0 and after != left:",
        "if False:",
        ("test_frame.py::test_a_batch_that_is_out_of_step_is_refused",),
    ),
    Mutant(
        "frames of an object are not verified to their end",
        "_engine/read/objects.py",
        "if found.end_offset != stop or found.positions[-1] != len(data):",
        "if found.end_offset != stop:",
        ("test_cloud_faults.py::test_frames_of_an_object_are_verified_up_to_the_last_byte",),
    ),
    Mutant(
        "frames of an object are not verified",
        "_engine/read/objects.py",
        "if found.end_offset != stop or found.positions[-1] != len(data):",
        "if False:",
        ("test_cloud_faults.py::test_frames_of_an_object_are_verified_up_to_the_last_byte",),
    ),
    # ---- the life of a log, and who was told
    Mutant(
        "what housekeeping met counts as told",
        "_engine/wait/housekeeping.py",
        "_KEEPING_HOUSE.set(True)",
        "_KEEPING_HOUSE.set(False)",
        ("test_life.py::test_a_topic_that_is_idle_and_fenced_is_told_of_on_leaving",),
    ),
    Mutant(
        "a cancelled body hides a loss",
        "_engine/log/open.py",
        "if exc is None or isinstance(exc, trio.Cancelled):\n                raise untold",
        "if exc is None:\n                raise untold",
        ("test_life.py::test_a_cancelled_body_does_not_hide_the_fence",),
    ),
    Mutant(
        "a failure that nobody heard of is forgotten",
        "_core/life.py",
        "self._failed, self._vanished = failed, vanished",
        "self._failed, self._vanished = range(0), vanished",
        ("test_life.py::test_only_the_first_failure_counts_and_says_what_may_be_lost",),
    ),
    Mutant(
        "a fenced log can be sealed",
        "_core/life.py",
        "    Phase.FENCED: {\n",
        "    Phase.FENCED: {\n        Turn.SEAL: Phase.SEALED,\n",
        ("test_life.py::test_each_turn_leads_from_each_phase_where_the_table_says",),
    ),
    # ---- whose tail it is
    Mutant(
        "the tail of a directory that lost the log in between counts",
        SET_ASIDE,
        "return state.owner_since_epoch <= tail_epoch",
        "return True",
        ("test_fencing.py::test_a_tail_counts_if_nobody_else_owned_the_log_since_it_began",),
    ),
    Mutant(
        "a copy of a directory passes for the directory",
        SET_ASIDE,
        " or (state.epoch, state.writer) not in meta.writers:",
        ":",
        ("test_fencing.py::test_a_tail_counts_if_nobody_else_owned_the_log_since_it_began",),
    ),
    Mutant(
        "a tail is set aside without its sync",
        SET_ASIDE,
        "            _sync(disk, path)\n",
        "            pass\n",
        (
            "test_fencing.py::test_a_tail_that_is_set_aside_is_synced_before_its_name_says_that_it_is_kept",
        ),
    ),
    # ---- uploading
    Mutant(
        "an upload is not verified",
        UPLOADER,
        "        await verify_upload(self._store, key, info, segment, crc, how)\n",
        "",
        ("test_cloud_faults.py::test_an_object_that_is_not_what_was_uploaded_is_uploaded_again",),
    ),
    Mutant(
        "the checksum of an upload is not compared",
        VERIFY_UPLOAD,
        "(stored.size_bytes, tag, found) != (segment.size_bytes, uploaded.etag, crc)",
        "(stored.size_bytes, tag) != (segment.size_bytes, uploaded.etag)",
        ("test_cloud_faults.py::test_an_upload_is_compared_by_size_tag_and_checksum",),
    ),
    Mutant(
        "the tag of an upload is not compared",
        VERIFY_UPLOAD,
        "(stored.size_bytes, tag, found) != (segment.size_bytes, uploaded.etag, crc)",
        "(stored.size_bytes, found) != (segment.size_bytes, crc)",
        ("test_cloud_faults.py::test_an_upload_is_compared_by_size_tag_and_checksum",),
    ),
    Mutant(
        "the size of an upload is not compared",
        VERIFY_UPLOAD,
        "(stored.size_bytes, tag, found) != (segment.size_bytes, uploaded.etag, crc)",
        "(tag, found) != (uploaded.etag, crc)",
        ("test_cloud_faults.py::test_an_upload_is_compared_by_size_tag_and_checksum",),
    ),
    Mutant(
        "a file that changed since it was written is uploaded",
        UPLOADER,
        "if position == segment.size_bytes and found != crc:",
        "if False:",
        ("test_cloud_ends.py::test_uploads_go_on_when_a_copy_of_the_damaged_file_is_put_back",),
    ),
    Mutant(
        "a segment of an earlier run is uploaded without being verified",
        UPLOADER,
        "if (walk.position, walk.offset) != (size, segment.end) or size != segment.size_bytes:",
        "if False:",
        ("test_cloud_ends.py::test_who_waits_for_an_upload_behind_damage_is_told_what_helps",),
    ),
    Mutant(
        "an object goes while somebody reads it",
        SWEEPER,
        "if engine.pins.hold_objects(descriptor.end):",
        "if False:",
        ("test_pins.py::test_an_object_stays_while_a_block_of_it_is_fetched",),
    ),
    Mutant(
        "objects of a pending change are removed",
        UPLOADER,
        "        if self._session.pending:\n            return\n",
        "",
        equivalent="what is pending names only what the session's state names: see the comment",
    ),
    Mutant(
        "a fenced writer removes what the winner's catalog names",
        UPLOADER,
        "            self._forget_named(newest)\n",
        "            pass\n",
        equivalent="the session's own last look has told the same before: see the comment",
    ),
)
