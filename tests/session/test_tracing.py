"""OpenTelemetry's instrumentation of aiohttp nests every call of an edit in the span of whoever asked for the edit."""

from __future__ import annotations

import asyncio

import pytest
from bulk_runs import PHOTO
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from qwen_edit_async import EditSession, FixedInterval
from qwen_edit_async.emulator import AfterChecks, EditEmulator, FixedEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield provider.get_tracer("app"), exporter
    instrumentor.uninstrument()


@pytest.mark.parametrize("protocol", ["generation", "queue"])
async def test_every_call_of_an_edit_is_in_its_callers_span(spans, protocol):
    tracer, exporter = spans

    async def edit(session, name):
        with tracer.start_as_current_span(name) as span:
            result = await session.edit(PHOTO, name)
            await result.images[0].read()
        return name, result.task_id, span.get_span_context().span_id

    async def give_up(session):
        with tracer.start_as_current_span("given up") as span:
            task = await session.submit(PHOTO, "given up")
        task.cancel()
        return "given up", task.id, span.get_span_context().span_id

    async with (
        EditEmulator(duration=AfterChecks(3), engine=FixedEngine()) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, protocol=protocol, polling=FixedInterval(0.02)) as session,
    ):
        edits = await asyncio.gather(*(edit(session, f"edit {number}") for number in range(5)), give_up(session))
    calls = [span for span in exporter.get_finished_spans() if span.instrumentation_scope.name != "app"]
    parents = {span_id: (name, task_id) for name, task_id, span_id in edits}
    by_edit = {name: [] for name, *_ in edits}
    for call in calls:
        assert call.parent is not None, call.attributes
        name, task_id = parents[call.parent.span_id]
        by_edit[name].append(call)
        url = next(value for key, value in call.attributes.items() if key in {"http.url", "url.full"})
        assert task_id in url or url.endswith(("/generation", "/qwen_image_edit_plus"))
    for name, made in by_edit.items():
        assert len(made) >= (1 if name == "given up" else 5)
    assert len(by_edit["given up"]) == {"generation": 1, "queue": 2}[protocol]
