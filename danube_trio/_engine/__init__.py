"""One log, many logs, and their keeping. Imports point down.

    topics/ many logs by name      danube/ what Danube wrote      thread/ trio for other programs
    care/   verify, repair, restore: logs that nobody has open
    log/    the running log: accept, write, sync, seal, upload, free
    read/   one cursor over memory, files and objects; followers and replicas
    files/  one log's directory    wait/   how tasks wait         watch/  a program is looked at

One record on its way to the catalog: `log.wal`, `log.encode`, `log.accept`, `log.writer`,
`log.flusher`, `log.uploader`. And back to a reader: `read.reader` asks `_core.route` for the tier,
and fetches from memory, by `files.segments` or by `read.objects`.
"""
