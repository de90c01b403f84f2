import asyncio, pytest
from memory_transport import *
pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]
async def test_a():
    s = MemoryService(room=2)
    async with MemorySession(s, max_in_flight=16) as session:
        l = asyncio.get_running_loop(); a = l.time()
        await asyncio.gather(*[session.edit(IMAGE, "x") for _ in range(1000)])
        print(l.time()-a, session.statistics())
@pytest.mark.parametrize("w", [False, True])
async def test_b(w):
    s = MemoryService()
    async with MemorySession(s) as session:
        i = Interrupted(session.edit(IMAGE, "x")); await i
        n = i.suspensions; print(n)
        for k in range(1, n+1):
            t = asyncio.create_task(_c(Interrupted(session.edit(IMAGE, "x"), k, as_it_wakes=w)))
            try: await t; print("not cancelled", k)
            except asyncio.CancelledError as e: print(k, getattr(e,"__notes__",None))
            await asyncio.sleep(5)
            print(session.statistics().in_flight, session.unfinished, s.ids)
async def _c(x): return await x
