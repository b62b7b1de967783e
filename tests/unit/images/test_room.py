"""Prompts wait for memory, and each gets it in the end."""

import asyncio

from verl_mars.images.room import FIRST_GUESS, Room


def most_at_once(limit, sizes, learnt=None):
    """How many prompts have run side by side at most, and how many in all."""
    running = most = done = 0

    async def prompt(room, pixels):
        nonlocal running, most, done
        async with room.take(pixels):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            done += 1

    async def run():
        room = Room(limit)
        if learnt is not None:
            room.learn(*learnt)
        await asyncio.gather(*(prompt(room, pixels) for pixels in sizes))

    asyncio.run(run())
    return most, done


def test_prompts_run_side_by_side_as_far_as_memory_reaches():
    assert most_at_once(int(3 * 100 * FIRST_GUESS), [100] * 9) == (3, 9)


def test_a_prompt_larger_than_the_limit_runs_alone():
    assert most_at_once(10, [100] * 4) == (1, 4)


def test_prompts_without_images_do_not_wait():
    assert most_at_once(10, [0] * 5) == (5, 5)


def test_the_size_of_a_prompt_is_learnt():
    assert most_at_once(1000, [100] * 8, learnt=(500, 200)) == (4, 8)


def test_a_failed_prompt_frees_its_memory():
    async def run():
        room = Room(10)
        for _ in range(2):
            try:
                async with room.take(100):
                    raise ValueError("failed")
            except ValueError:
                pass
        return True

    assert asyncio.run(asyncio.wait_for(run(), 1))
