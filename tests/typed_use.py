"""Uses of the async and the synchronous API that mypy accepts or rejects. An unneeded ``ignore`` is an error, too."""

from __future__ import annotations

from pathlib import Path

from qwen_edit_async import BatchPlan, BatchReport, BucketPath, EditRequest, Estimate
from qwen_edit_async import EditSession as AsyncEditSession
from qwen_edit_async.sync import EditBatch, EditResult, EditSession

with EditSession("key", fit=True) as session:
    result: EditResult = session.edit("cat.jpg", "make it snow", n=2, deadline=60)
    result = session.edit(EditRequest("cat.jpg", "make it snow"), deadline=60)
    result = session.submit(Path("cat.jpg"), "make it snow").result()
    result = session.attach("id", deadline=60).result()
    paths: list[tuple[Path, ...]] = [
        outcome.result.save(Path("out")) for outcome in session.edit_many([], ordered=True)
    ]
    path: Path | BucketPath = result.images[0].save("s3://bucket/a.png")
    content: bytes = result.images[0].read()
    plan: BatchPlan = EditBatch("photos", "out", instruction="make it snow").plan(price="0.03")
    report: BatchReport = EditBatch("photos", "out").run(session.with_options(deadline=60))

    estimate: Estimate = session.estimate("cat.jpg", "make it snow", n=2, deadline=60)
    estimate = session.estimate(EditRequest("cat.jpg", "make it snow"), deadline=60)

    session.estimate("cat.jpg")  # type: ignore[call-overload]  # it has no instruction
    session.estimate(EditRequest("cat.jpg", "make it snow"), n=2)  # type: ignore[call-overload]  # it is complete
    session.edit("cat.jpg")  # type: ignore[call-overload]  # it has no instruction
    session.submit("cat.jpg")  # type: ignore[call-overload]  # it has no instruction
    session.edit("cat.jpg", "make it snow", m=2)  # type: ignore[call-overload]  # there is no option m
    session.edit_many(5)  # type: ignore[arg-type]  # a number is not iterable
    EditSession(key="key")  # type: ignore[call-arg]  # the option is api_key
    EditBatch("photos")  # type: ignore[call-arg]  # it has no folder for results


async def use_async(session: AsyncEditSession) -> None:
    estimates: list[Estimate] = [
        await session.estimate("cat.jpg", "make it snow", n=2, deadline=60),
        await session.estimate(EditRequest("cat.jpg", "make it snow"), deadline=60),
    ]
    assert estimates

    await session.estimate("cat.jpg")  # type: ignore[call-overload]  # it has no instruction
    await session.estimate(EditRequest("cat.jpg", "snow"), n=2)  # type: ignore[call-overload]  # it is complete
