"""Requests of many callers in batches of a limited cost."""

import asyncio

import pytest

from raydiar.serving.deployments.batching import Batching


class Device:
    """Doubles numbers, one batch at a time, when it is let."""

    def __init__(self):
        self.batches = []
        self.turns = asyncio.Semaphore(0)
        self.busy = False

    async def __call__(self, batch):
        assert not self.busy
        self.busy = True
        self.batches.append(batch)
        await self.turns.acquire()
        self.busy = False
        if 13 in batch:
            raise RuntimeError("lost")
        return [ValueError(f"not {one}") if one == 7 else 2 * one for one in batch]

    def let(self, batches=1):
        for _ in range(batches):
            self.turns.release()


async def asked(batching, *items):
    tasks = [asyncio.create_task(batching(item)) for item in items]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def batching_of(device, max_cost=10):
    return Batching(device, float, max_cost)


def test_what_comes_while_a_batch_runs_is_the_next_one():
    async def scenario():
        device = Device()
        batching = batching_of(device)
        tasks = await asked(batching, 1)  # does not wait for company
        assert device.batches == [[1]]
        tasks += await asked(batching, 2, 3)
        tasks += await asked(batching, 4)
        assert device.batches == [[1]]
        device.let(2)
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
        assert device.batches == [[1], [2, 3, 4]]
        [task] = await asked(batching, 5)  # once it was idle again
        device.let()
        assert await task == 10

    asyncio.run(scenario())


def test_small_ones_fill_what_a_large_one_leaves_and_it_is_next():
    async def scenario():
        device = Device()
        batching = batching_of(device)
        tasks = await asked(batching, 1)
        tasks += await asked(batching, 6, 9, 4, 8, 1)
        device.let(10)
        await asyncio.gather(*tasks)
        assert device.batches == [[1], [6, 4], [9, 1], [8]]

    asyncio.run(scenario())


def test_who_floods_waits_for_his_own():
    """Nine of one and one of another: the other is next, however long the queue is."""

    async def scenario():
        device = Device()
        batching = Batching(device, lambda one: 1, 1, owner=lambda one: one // 100)
        tasks = await asked(batching, 101)
        tasks += await asked(batching, *range(102, 110))
        tasks += await asked(batching, 201, 301)
        device.let(2)
        await tasks[1]
        tasks += await asked(batching, 202)
        device.let(20)
        await asyncio.gather(*tasks)
        ran = [one for [one] in device.batches]
        assert ran[:7] == [101, 102, 201, 301, 103, 202, 104]
        assert ran[7:] == [105, 106, 107, 108, 109]

    asyncio.run(scenario())


def test_what_costs_more_than_a_batch_may_is_one_of_its_own():
    async def scenario():
        device = Device()
        batching = batching_of(device)
        tasks = await asked(batching, 1, 2, 50, 3)
        device.let(10)
        assert await asyncio.gather(*tasks) == [2, 4, 100, 6]
        assert device.batches == [[1, 2, 3], [50]]

    asyncio.run(scenario())


def test_one_item_fails_alone_and_a_batch_as_a_whole():
    async def scenario():
        device = Device()
        batching = batching_of(device, max_cost=100)
        tasks = await asked(batching, 1)
        tasks += await asked(batching, 2, 7)
        device.let()
        await tasks[0]
        tasks += await asked(batching, 13, 3)
        device.let(2)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[:2] == [2, 4]
        assert [str(one) for one in results[2:]] == ["not 7", "lost", "lost"]
        [task] = await asked(batching, 5)  # and it goes on
        device.let()
        assert await task == 10

    asyncio.run(scenario())


def test_who_left_costs_nothing():
    async def scenario():
        device = Device()
        batching = batching_of(device, max_cost=100)
        running, *waiting = await asked(batching, 1, 2, 3)
        assert device.batches == [[1, 2, 3]]
        waiting += await asked(batching, 4, 5, 6)
        for task in (waiting[0], waiting[2]):  # of the batch that runs, and of the next
            task.cancel()
        device.let(10)
        assert await asyncio.gather(running, waiting[1], *waiting[3:]) == [2, 6, 10, 12]
        assert device.batches == [[1, 2, 3], [5, 6]]

    asyncio.run(scenario())


def test_a_function_that_forgets_results_is_an_error():
    async def scenario():
        async def forget(batch):
            return batch[1:]

        with pytest.raises(ValueError, match="zip"):
            await Batching(forget, float, 10)(1)

    asyncio.run(scenario())
