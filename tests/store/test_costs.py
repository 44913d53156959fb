"""What `store gc` and `store check` cost: requests by the thousand deleted, memory by the object."""

import gc
import tracemalloc

import pytest

from bench.store_gc import fabricate
from components.store.check import check, products
from components.store.gc import Collector
from tests.store.counting import counted

AN_OBJECT = 1500  # bytes: 270,000 of them beside what an idle command takes stay below 500 MB
IDLE = 4 << 20


def test_deleting_ten_thousand_takes_sixty_requests_a_thousand_at_most():
    with counted(age=60) as (store, bucket):
        fabricate(bucket.put, 300, dropped=2.4)
        collector = Collector(store, 30)
        plan = collector.plan()
        bucket.requests.clear()
        gone = collector.delete(plan)
        assert len(gone) == len(plan.all()) > 10_000
        assert bucket.requests.total() <= 60 * len(gone) / 1000
        assert bucket.requests["get"] == 0  # what did not change is not read again
        assert Collector(store, 30).plan().all() == []


def test_ten_thousand_among_many_cost_two_listings_and_a_few_requests_a_batch():
    with counted(age=60) as (store, bucket):
        fabricate(bucket.put, 1500, dropped=0.04)
        collector = Collector(store, 30)
        plan = collector.plan()
        listing = -(-len(bucket.objects) // 1000)
        bucket.requests.clear()
        assert len(collector.delete(plan)) == len(plan.all()) > 500
        assert bucket.requests.total() <= 2 * listing + 15


def peak(action):
    gc.collect()
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("command", ["gc", "check"])
def test_memory_by_the_object(command):
    with counted(age=60) as (store, bucket):
        objects = fabricate(bucket.put, 600)

        def run():
            if command == "check":
                found = check(store, products(store))
                assert (found.manifests, found.files, found.damages) == (1, 3000, [])
            else:
                collector = Collector(store, 30)
                assert len(collector.delete(collector.plan())) > 800

        assert peak(run) <= IDLE + AN_OBJECT * objects
