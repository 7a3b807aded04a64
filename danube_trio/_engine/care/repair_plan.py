"""What a repair of a log would do, found out without changing anything.

`Verification` says what is wrong; this says what can be done about it, file by file:

=================  =================================================================================
what is wrong      what a repair does
=================  =================================================================================
meta, trim         nothing: no other file says what they say. Then nothing else is done either.
                   A meta is written anew when the codec is named (see `rescue`)
mark, checkpoint,  written anew from the segments; a damaged one is kept beside
index
torn tail          what opening does: cut, the bytes kept beside
leftovers          what opening does: removed
a file that is no  kept beside, under another name
segment of the log
bytes behind the   cut, and kept beside
last record of a
sealed segment
damaged segment,   as the policy says. *truncate*: the log ends before the first damage, whatever
missing segment    follows is kept beside. *skip*: it stays, and readers that are opened with
                   ``on_corruption="skip"`` get a `Gap`. Without a policy: nothing
bad message        nothing: its frame is whole, so it is what was written
append times ahead the time before them is put in their place (`retime`), if nothing else is wrong
of the clock       with the segments, and the log was never in a store: objects do not change
=================  =================================================================================

A truncated log gives the lost offsets to other records, so a plan says which ones, and how many of
them are whole. It is cut at the first damage, and never below the start offset.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from typing import Literal

import attrs

from danube_trio._core.clocks import MAX_AHEAD
from danube_trio._core.disk import Disk
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.repair_scan import Damage, SegmentScan
from danube_trio._engine.care.rescue import fitting_codecs
from danube_trio._engine.care.verify import Verification
from danube_trio._engine.care.verify_segment import Finding, Preview, ignore, preview
from danube_trio._engine.files.directory import Directory, look
from danube_trio._engine.files.segments import find_after
from danube_trio._engine.files.tiling import check_tiling
from danube_trio.errors import Advice, CorruptDataError, Worded

CHANGES = ("rebuild", "cut", "remove", "truncate", "retime")

Policy = Literal["truncate", "skip"]
Action = Literal[
    "rebuild", "cut", "remove", "truncate", "skip", "retime", "undecided", "impossible"
]


@attrs.frozen
class Step:
    """One thing that a repair does, or that it cannot do.

    Attributes:
        action: ``rebuild`` a small file, ``cut`` a torn tail, ``remove`` a leftover, ``truncate``
            or ``skip`` damage, ``retime`` records whose append times a wrong clock left;
            ``undecided``: that takes a policy; ``impossible``.
        path: the file.
        reason: what is wrong, and what would be done.
        lost: the offsets that the log loses, `[start, end)`, or None.
    """

    action: Action
    path: str
    reason: str
    lost: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.action}: {self.path}: {self.reason}"


@attrs.frozen
class Plan:
    """What was found, and what would be done.

    Attributes:
        findings: of the verification.
        steps: in the order in which they would be done.
        directory: the small files; None if they do not allow anything.
        damage: the first one, or None.
        policy: what to do about it.
        rebuild: paths of the small files to write anew.
        tails: `(base, position)` of sealed segments with something behind their last record.
        late: segments with append times above `latest_time` (us), and `first_time`, the first one
            in the log that is not.
        reopen: how the log is opened and closed at the end, which does most of the work; None:
            that would be refused.
    """

    findings: tuple[Finding, ...]
    steps: tuple[Step, ...]
    directory: Directory | None
    damage: Damage | None
    policy: Policy | None
    rebuild: frozenset[str] = frozenset()
    tails: tuple[tuple[int, int], ...] = ()
    reopen: Literal["refuse", "skip"] | None = None
    late: tuple[int, ...] = ()
    latest_time: int = 0
    first_time: int = 0

    @property
    def changes(self) -> bool:
        """Applying it would change something."""
        return any(step.action in CHANGES for step in self.steps)


def plan_repair(
    disk: Disk,
    names: LogNames,
    policy: Policy | None,
    *,
    progress: Callable[[int], object] = ignore,
    expect: Callable[[int], object] = ignore,
) -> Plan:
    """Verify a log that nobody holds, and say what a repair would do. Changes nothing.

    Raises FileNotFoundError if there is no log, UnsupportedFormatError, ValueError and OSError.
    """
    verification = Verification(disk, names, progress=progress, expect=expect)
    findings = tuple(verification)
    try:
        directory = look(disk, names, complete=False)
    except CorruptDataError as error:
        path = error.path or names.directory
        reason = f"{error.reason}: restore it from a copy, no other file says the same"
        if path == names.meta and (fits := fitting_codecs(disk, names)):
            fit = f"--codec {fits[0]}, which the messages fit" if len(fits) == 1 else "--codec"
            reason += f"; or name the codec with {fit}, and it is written anew"
        step = Step("impossible", path, reason)
        return Plan(findings, (step,), None, None, policy)
    if directory is None:
        raise names.no_log()
    directory, _ = check_tiling(disk, directory, 0, [], skip=True)
    return _Planner(disk, directory, findings, policy).plan(verification)


class _Planner:
    def __init__(
        self, disk: Disk, directory: Directory, findings: tuple[Finding, ...], policy: Policy | None
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._names = directory.names
        self._findings = findings
        self._policy: Policy | None = policy
        self._steps: list[Step] = []
        self._scan = SegmentScan(disk, directory)
        self._damage: Damage | None = None

    def plan(self, verified: Verification) -> Plan:
        directory = self._directory
        damage = self._damage = self._scan.run()
        for stray in directory.strays:
            reason = (
                "it is no segment of this log: its records are in another one; it is kept beside"
            )
            self._step("remove", self._names.segment(stray), reason)
        for base, _, size in self._scan.tails:
            reason = f"{size} bytes behind the last record are cut and kept beside"
            self._step("cut", self._names.segment(base), reason)
        if damage is not None:
            self._damage_step(damage)
        reopen = self._reopen()
        rebuild = self._small_files(reopen is not None)
        if reopen is not None:
            self._torn_tail()
            self._leftovers()
        self._bad_messages()
        tails = tuple((base, position) for base, position, _ in self._scan.tails)
        late: tuple[int, ...] = ()
        if damage is None and reopen is not None and not tails and not directory.meta.place:
            late = tuple(verified.late)  # it is all there is to do with the segments
        for base in late:
            reason = (
                "append times ahead of the clock are replaced by the last one before that is not"
            )
            self._step("retime", self._names.segment(base), reason)
        return Plan(
            self._findings,
            tuple(self._steps),
            directory,
            damage,
            self._policy,
            rebuild,
            tails,
            reopen,
            late,
            verified.latest_time,
            # Where all are late, anything that is not later than what will be appended.
            verified.first_time or verified.latest_time - int(MAX_AHEAD * 1e6),
        )

    def _step(
        self, action: Action, path: str, reason: str, lost: tuple[int, int] | None = None
    ) -> None:
        self._steps.append(Step(action, path, reason, lost))

    @property
    def _truncates(self) -> bool:
        return any(step.action == "truncate" for step in self._steps)

    @cached_property
    def _expected(self) -> Preview | None:
        """What opening would make of the last segment, as it is."""
        return preview(self._disk, self._directory)

    def _reopen(self) -> Literal["refuse", "skip"] | None:
        """Under which policy the log opens, once it is truncated, if it is."""
        if self._truncates:
            return "refuse"
        skip = self._policy == "skip"
        if not self._opens(skip=skip):
            return None
        if skip:
            return "skip"
        expected = self._expected
        return "refuse" if expected is None or expected.damage is None else None

    def _opens(self, *, skip: bool) -> bool:
        """No segment is missing that must be there, once the strays are out of the way."""
        try:
            found = look(self._disk, self._names, skip=skip, without=self._directory.strays)
            assert found is not None
            check_tiling(self._disk, found, 0, [], skip=skip)
        except CorruptDataError:
            return False
        return True

    def _leftovers(self) -> None:
        names = self._names
        paths = [f"{names.directory}/{name}" for name in self._directory.leftovers]
        for path in [*paths, *map(names.segment, self._directory.leftover_bases)]:
            self._step("remove", path, "a leftover, which nothing depends on")

    def _damage_step(self, damage: Damage) -> None:
        path = self._names.segment(damage.base if damage.base >= 0 else damage.end)
        span = (damage.end, damage.log_end)
        truncate, skip = _truncated(damage), _skipped(damage)
        can_truncate = damage.base >= 0 and damage.end >= self._directory.start_offset
        can_skip = self._opens(skip=True)
        if self._policy == "truncate" and can_truncate:
            self._step("truncate", path, truncate, span)
        elif self._policy == "skip" and can_skip:
            self._step("skip", path, skip)
        elif self._policy is None and (can_truncate or can_skip):
            choice = [f"with --policy truncate {truncate}"] if can_truncate else []
            if can_skip:
                choice.append("; with --policy skip " if choice else "with --policy skip ")
            self._step("undecided", path, Worded(*choice, *skip.parts * can_skip), span)
        else:
            reason = f"{skip.partition(':')[0]}: restore the segments from a copy"
            if can_truncate or can_skip:
                reason += f", or use --policy {'truncate' if can_truncate else 'skip'}"
            self._step("impossible", path, reason, span)

    # ---- the rest

    def _small_files(self, opens: bool) -> frozenset[str]:
        """Those that are damaged, missing, or say something else than the segments."""
        names = self._names
        reasons: dict[str, str] = {}
        # What is not whole has, and needs, no index; and while segments are missing, the checkpoint
        # is what says so.
        wanted = {*map(names.index, self._scan.whole)}
        if self._damage is None or self._truncates:
            wanted.add(names.checkpoint)
        if opens:
            wanted.add(names.mark)
        for finding in self._findings:
            if finding.path in wanted:
                reasons.setdefault(finding.path, finding.reason)
        if opens and self._scan.mark_lies:
            reasons[names.mark] = "it does not fit the segment that it speaks of"
        for path, reason in reasons.items():
            self._step("rebuild", path, f"{reason}; it is written anew")
        return frozenset(reasons)

    def _torn_tail(self) -> None:
        expected = self._expected
        if expected is None or expected.damage is not None or not expected.cut_bytes:
            return
        if self._truncates:
            return  # it goes with the rest
        reason = (
            f"a torn tail: {expected.cut_reason}; {expected.cut_bytes} bytes from byte "
            f"{expected.cut_position} on are cut and kept beside"
        )
        path = self._names.segment(expected.base)
        if self._directory.mark is None:
            reason += "; without a mark nobody can tell whether they were durable"
            if (behind := self._readable_behind(path, expected)) is not None:
                reason += f", and record {behind} among them is whole"
        self._step("cut", path, reason)

    def _readable_behind(self, path: str, expected: Preview) -> int | None:
        """The first offset after the bad frame of a tail that can still be read."""
        with closing(self._disk.open(path, "r")) as file:
            at, lowest = expected.cut_position + 1, expected.next_offset
            found = find_after(file, at, lowest, size=file.size())
        return None if found is None else found[1]

    def _bad_messages(self) -> None:
        """Problems that no step above is about."""
        about = {step.path for step in self._steps}
        damage, cut, mark = self._damage, self._truncates, self._directory.mark
        if self._scan.mark_lies and mark is not None:
            about.add(self._names.segment(mark.base))
        for finding in self._findings:
            if finding.severity != "problem" or finding.path in about:
                continue
            offset = finding.offset
            if offset is not None and damage is not None:
                if cut and offset >= damage.end:
                    continue
                if any(low <= offset <= high for low, high in damage.gaps):
                    continue
            reason = f"{finding.reason}: it stays as it is"
            self._step("impossible", finding.path, reason)
            about.add(finding.path)


def _truncated(damage: Damage) -> str:
    lost = damage.log_end - damage.end
    unreadable = sum(high - max(low, damage.end) for low, high in damage.gaps)
    return (
        f"the log would end at offset {damage.end} and lose {lost} records, of which "
        f"{max(0, lost - unreadable)} can be read; they are kept beside, and new records get "
        f"their offsets"
    )


def _skipped(damage: Damage) -> Worded:
    where = ", ".join(f"{low} to {high}" for low, high in damage.gaps[:20])
    return Worded(f"records {where} stay missing: ", Advice.ALLOW_GAPS)
