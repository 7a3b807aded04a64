"""What an open log can tell about itself."""

from __future__ import annotations

from danube_trio._core.stats import WalStatistics
from danube_trio._engine.log.engine import Engine


def statistics_of(engine: Engine) -> WalStatistics:
    """Look at everything."""
    marks, meters, files = engine.marks, engine.meters, engine.files
    return WalStatistics(
        phase=engine.log.phase.value,
        start_offset=marks.start_offset,
        uploaded_end=marks.uploaded_end,
        sealed_end=marks.sealed_end,
        durable_end=marks.durable_end,
        written_end=marks.written_end,
        next_offset=marks.next_offset,
        segments=len(files.segments) + 1 if files is not None else 0,
        size_bytes=files.size_bytes if files is not None else 0,
        pending_bytes=engine.intake.held_bytes,
        pending_peak_bytes=engine.intake.peak_bytes,
        pending_appends=len(meters.ages),
        durable_lag_seconds=meters.ages.oldest,
        cached_records=engine.memory.end - engine.memory.start,
        cached_bytes=engine.memory.size_bytes,
        appended_records=meters.appended_records,
        appended_bytes=meters.appended_bytes,
        writes=meters.writes,
        syncs=meters.syncs,
        rolls=meters.rolls,
        append_seconds=meters.ages.seconds.view(),
        batch_records=meters.batch_records.view(),
        batch_bytes=meters.batch_bytes.view(),
        write_seconds=meters.write_seconds.view(),
        sync_seconds=meters.sync_seconds.view(),
        disk_seconds=meters.disk_seconds.view(),
        readers=tuple(r.statistics() for r in engine.readers if not r.closed),
        waiting_appends=len(engine.queue),
        waiting_peak_appends=engine.queue.peak,
        janitor_failures=meters.janitor_failures,
        tasks=meters.tasks(),
        notes=files.notes if files is not None else (),
        cloud=engine.cloud.statistics(len(engine.pins)) if engine.cloud is not None else None,
    )
