"""Mutants of dispatch and of the doors."""

from __future__ import annotations

from mutants.mutant import Mutant

__all__ = ["MUTANTS"]

LEDGER = "dispatch/_ledger.py"
CORE = "dispatch/_core.py"
CURSOR = "dispatch/_cursor.py"
OPENING = "dispatch/_opening.py"
SAVING = "dispatch/_saving.py"
APPEND_JOB = "_engine/thread/append_job.py"

MUTANTS = (
    # ---- the cursor
    Mutant(
        "failure counts of a resumed cursor are forgotten by its first save",
        LEDGER,
        "        attempts.update(self._failures)\n",
        "",
        ("test_dispatch_cursor.py::test_what_a_resumed_cursor_knows_is_in_its_first_save",),
    ),
    Mutant(
        "holes that retention took away stay in the cursor",
        LEDGER,
        "deque(hole for hole in self._resumed if not start <= hole < end)",
        "deque(self._resumed)",
        ("test_dispatch_cursor.py::test_what_is_gone_from_the_log_is_gone_from_a_resumed_cursor",),
    ),
    Mutant(
        "a rejected message of a resumed cursor is handed out",
        LEDGER,
        "            entry.rejected = True\n",
        "            pass\n",
        ("test_dispatch_poison.py::test_what_was_rejected_stays_rejected_after_restarts",),
    ),
    Mutant(
        "rejections are not saved",
        CURSOR,
        "        if self.rejected:\n",
        "        if False:\n",
        ("test_dispatch_cursor.py::test_what_a_resumed_cursor_knows_is_in_its_first_save",),
    ),
    Mutant(
        "a cursor that contradicts itself is believed",
        CURSOR,
        "if not (0 <= self.end == first <= self.edge) or (holes and holes[-1] >= self.edge):",
        "if False:",
        ("test_dispatch_cursor.py::test_a_cursor_that_cannot_be_read_names_its_key",),
    ),
    Mutant(
        "pauses after failures do not double",
        "_core/pauses.py",
        "2.0 ** min(failures - 1, 64)",
        "1.0 ** min(failures - 1, 64)",
        ("test_pauses.py::test_pauses_double_up_to_their_limit",),
    ),
    Mutant(
        "an unreadable cursor does not hold retention",
        "dispatch/_known.py",
        "            ends.append(0)\n",
        "            pass\n",
        ("test_dispatch_needs.py",),
    ),
    Mutant(
        "another program's cursor is overwritten",
        SAVING,
        "if not ours or CursorState.decode(found.value, self.key).owner != self._owner:",
        "if False:",
        (
            "test_dispatch_takeover.py::test_a_program_that_saves_between_any_two_steps_is_fenced_all_the_same",
        ),
    ),
    Mutant(
        "a message that is another one passes for the one that was settled",
        OPENING,
        "        if found == witness:\n",
        "        if True:\n",
        ("test_identity_cursors.py::test_a_cursor_is_refused_by_another_log",),
    ),
    Mutant(
        "another log's cursor is believed",
        OPENING,
        'if cursor.log and _log_id(store) not in ("", cursor.log):',
        "if False:",
        (
            "test_identity_cursors.py::test_where_the_witness_was_trimmed_the_log_must_have_the_cursors_id",
        ),
    ),
    Mutant(
        "a cursor is saved above what is durable in the log",
        SAVING,
        "if not self._log.reads_durable:",
        "if False:",
        (
            "test_dispatch_regressions.py::test_acknowledgements_of_what_is_only_written_are_saved_when_it_is_durable",
        ),
    ),
    Mutant(
        "a subscription begins above what is durable in the log",
        OPENING,
        "    await store.log.make_durable(offset)\n",
        "",
        equivalent="reading the witness waits for the same: see the comment",
    ),
    Mutant(
        "a take-over that lost acknowledgements is told to nobody",
        "dispatch/_dispatch.py",
        " or subscription.untold_fence",
        "",
        ("test_life.py::test_acknowledgements_that_a_take_over_lost_are_told_of",),
    ),
    # ---- deliveries
    Mutant(
        "unsaved acknowledgements are unbounded",
        CORE,
        "if limit is not None and self.changes - self.saved_changes >= limit:",
        "if False:",
        (
            "test_dispatch_core.py::test_nothing_is_handed_out_while_too_many_acknowledgements_are_not_saved",
        ),
    ),
    Mutant(
        "an acknowledgement of an earlier delivery counts",
        CORE,
        "        if entry.serial != serial:\n            return False\n",
        "",
        ("test_dispatch_core.py::test_an_acknowledgement_speaks_of_one_delivery",),
    ),
    Mutant(
        "a message is redelivered once less than was asked for",
        CORE,
        "if limit is not None and entry.failures > limit:\n            self._poison",
        "if limit is not None and entry.failures >= limit:\n            self._poison",
        ("test_dispatch_core.py::test_a_message_is_redelivered_as_often_as_was_asked_for",),
    ),
    Mutant(
        "the window holds one message more",
        CORE,
        "room = self.options.max_unacked_messages - len",
        "room = self.options.max_unacked_messages + 1 - len",
        ("test_dispatch_core.py::test_the_window_holds_as_many_as_it_says",),
    ),
    Mutant(
        "what a consumer that left had in hand stays there",
        CORE,
        "if e.consumer is consumer]",
        "if False]",
        ("test_dispatch_core.py::test_what_a_consumer_that_leaves_had_in_hand_is_for_others",),
    ),
    Mutant(
        "a cumulative acknowledgement settles what was never handed out",
        CORE,
        "            if entry.serial and entry.state is not State.BURYING\n",
        "            if entry.state is not State.BURYING\n",
        ("test_dispatch_core.py::test_a_cumulative_acknowledgement_settles_what_was_handed_out",),
    ),
    Mutant(
        "retention does not wait for readers",
        "dispatch/_ack_retention.py",
        "await self._free(needs.first_read(unneeded))",
        "await self._free(unneeded)",
        ("test_dispatch_retention.py::test_a_reader_keeps_what_it_has_not_read",),
    ),
    # ---- doors
    Mutant(
        "an append of another thread does not wait for the store",
        APPEND_JOB,
        'elif self._level == "uploaded" and self._offsets:',
        "elif False:",
        ("test_doors.py::test_an_append_for_the_store_returns_when_the_store_has_it",),
    ),
    Mutant(
        "a failure that was told in another thread counts as untold",
        APPEND_JOB,
        "            self._appender.told(error, self._offsets)\n",
        "",
        ("test_doors.py::test_leaving_does_not_repeat_what_an_append_raised",),
    ),
    Mutant(
        "a cancellation after acceptance is swallowed",
        "anyio/_loop.py",
        "        if not ours and not job.withdrawn:\n",
        "        if False:\n",
        ("test_anyio_door.py::test_a_cancellation_after_acceptance_is_delivered_at_the_next_wait",),
    ),
)
