"""The gallery page: its content, its file, and its behavior in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from decimal import Decimal
from html.parser import HTMLParser

import PIL.Image
import pytest
from browser import find_browser, is_required, new_page, running_browser
from noise import noise

from qwen_edit_async.display.gallery import GalleryEdit, Picture, gallery_html
from qwen_edit_async.display.links import relative_path
from qwen_edit_async.display.thumbnails import Thumbnail, make_thumbnail

HOSTILE = '</p></style><script>window.attacked = 1</script>"\'><img src=x onerror="window.attacked = 1">&amp;\0\ud800'


class Elements(HTMLParser):
    """The start tags of a page with their attributes, and its text without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._raw = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self._raw = tag in {"script", "style"}
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if not self._raw:
            self.text.append(data)

    def values(self, tag: str, name: str) -> list[str | None]:
        return [attributes[name] for found, attributes in self.found if found == tag and name in attributes]


@pytest.fixture(scope="module")
def thumbnail() -> Thumbnail:
    found = make_thumbnail(PIL.Image.new("RGB", (400, 300), "teal"))
    assert found is not None
    return found


def page_of(*items: GalleryEdit, **options) -> str:
    return "".join(gallery_html(items, **options))


def test_shows_everything_about_an_edit(thumbnail):
    page = page_of(
        GalleryEdit(
            key="cat",
            instruction="make it snow",
            before=(Picture(thumbnail=thumbnail),),
            after=(Picture(thumbnail=thumbnail, path="cat-0.png"),),
            facts={"seed": 7, "size": (1024, 1536), "watermark": False, "n": None, "cost": Decimal("1E-7")},
        ),
        title="Night run",
        summary={"edits": 1},
    )
    text = " ".join(Elements(page).text)
    for expected in (
        "Night run",
        "cat",
        "make it snow",
        "seed 7",
        "size 1024×1536",
        "watermark no",
        "cost 0.0000001",
    ):
        assert expected in text
    assert " n " not in text


def test_embeds_small_pictures_and_links_the_large_ones(thumbnail):
    both = (Picture(thumbnail=thumbnail, path="out/ä cat#1.png"),)
    elements = Elements(page_of(GalleryEdit(key="k", instruction="i", before=both, after=both)))
    assert set(elements.values("img", "src")) == {thumbnail.data_uri}
    assert elements.values("a", "href") == ["./out/%C3%A4%20cat%231.png"] * 2


@pytest.mark.parametrize("several", [False, True])
def test_pictures_load_lazily(thumbnail, several):
    pictures = (Picture(thumbnail=thumbnail), Picture(path="a.png"))
    page = page_of(GalleryEdit(key="k", instruction="i", before=pictures[: 1 + several], after=pictures[: 1 + several]))
    elements = Elements(page)
    assert len(elements.values("img", "src")) == (6 if several else 2)
    assert elements.values("img", "loading") == ["lazy"] * len(elements.values("img", "src"))


@pytest.mark.parametrize("path", ["javascript:alert(1)", "//example.org/x.png", "https://example.org/x.png"])
def test_a_link_never_leads_to_the_network(path):
    elements = Elements(page_of(GalleryEdit(key="k", instruction="i", after=(Picture(path=path),))))
    assert all(href.startswith("./") for href in elements.values("a", "href"))
    assert ":" not in "".join(elements.values("a", "href"))


@pytest.mark.parametrize("member", ["key", "instruction", "error", "name", "value", "path", "title", "summary"])
def test_hostile_text_stays_text(member, thumbnail):
    fields = {"key": "k", "instruction": "i"}
    options = {}
    if member in {"name", "value"}:
        fields["facts"] = {HOSTILE: 1} if member == "name" else {"negative_prompt": HOSTILE}
    elif member == "path":
        fields["after"] = (Picture(thumbnail=thumbnail, path=HOSTILE),)
    elif member in {"title", "summary"}:
        options = {"title": HOSTILE} if member == "title" else {"summary": {HOSTILE: HOSTILE}}
    else:
        fields[member] = HOSTILE
    elements = Elements(page_of(GalleryEdit(**fields), **options))
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert not [attributes for _, attributes in elements.found if "onerror" in attributes]
    assert not [source for source in elements.values("img", "src") if not source.startswith("data:image/webp;")]
    if member != "path":
        assert "window.attacked" in "".join(elements.text)


def test_without_a_thumbnail_the_page_shows_the_file():
    before, after = Picture(path="x.png"), Picture(path=HOSTILE)
    elements = Elements(page_of(GalleryEdit(key="k", instruction="i", before=(before,), after=(after, Picture()))))
    assert {source[:2] for source in elements.values("img", "src")} == {"./"}
    assert "./x.png" in elements.values("img", "src")


def test_without_any_picture_the_card_says_so():
    assert "no preview" in Elements(page_of(GalleryEdit(key="k", instruction="i", before=(Picture(),)))).text


def test_pictures_with_nothing_to_show_are_neither_compared_nor_chosen(thumbnail):
    shown = Picture(thumbnail=thumbnail)
    page = page_of(GalleryEdit(key="k", instruction="i", before=(shown, Picture()), after=(Picture(), shown)))
    elements = Elements(page)
    assert elements.values("img", "class") == ["before", "after"]
    assert elements.values("button", "data-kind") == []


def test_pulls_one_edit_at_a_time(thumbnail):
    pulled = []

    def items():
        for index in range(1000):
            pulled.append(index)
            yield GalleryEdit(key=str(index), instruction="i")

    pieces = gallery_html(items())
    while "2</button>" not in next(pieces):
        pass
    assert len(pulled) <= 4


@pytest.mark.parametrize("tag", ["style", "script"])
def test_the_page_allows_its_own_style_and_script_and_no_others(tag):
    page = page_of()
    policy = Elements(page).values("meta", "content")[0]
    source = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in policy
    assert page.count(f"<{tag}") == 1


def test_the_page_may_load_nothing_from_elsewhere():
    page = page_of()
    assert "default-src 'none'" in Elements(page).values("meta", "content")[0]
    assert "://" not in page


def picture_of(path, *images):
    """An edit with these images as its inputs, for a page at this path."""
    return GalleryEdit(key="k", instruction="i", before=tuple(picture(image, path.parent) for image in images))


def picture(image, folder) -> Picture:
    return Picture(thumbnail=make_thumbnail(image), path=relative_path(image, folder))


def test_pictures_are_linked_relative_to_the_page(tmp_path):
    source, output = tmp_path / "photos" / "cat.png", tmp_path / "out" / "cat-0.png"
    for path in (source, output):
        path.parent.mkdir()
        PIL.Image.new("RGB", (500, 400), "navy").save(path)
    page = page_of(picture_of(tmp_path / "out" / "report.html", source, output))
    assert Elements(page).values("a", "href") == ["./../photos/cat.png", "./cat-0.png"]
    assert "no preview" not in page


def test_an_input_on_another_drive_is_not_linked(tmp_path, monkeypatch):
    def relpath(path, start):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("os.path.relpath", relpath)
    assert Elements(page_of(picture_of(tmp_path / "report.html", "C:/x.png"))).values("a", "href") == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_browser() is None:
        if is_required():
            pytest.fail("no Chromium found: apt-get install chromium", pytrace=False)
        pytest.skip("no Chromium found")
    with running_browser(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of twelve edits. Every fourth failed, the second has hostile text, and the third has two outputs."""
    folder = tmp_path_factory.mktemp("gallery")
    edits = []
    for index in range(12):
        before, after, other = (folder / f"{name}-{index}.png" for name in ("in", "out", "other"))
        gradient = PIL.Image.radial_gradient("L").resize((640, 420))
        PIL.Image.merge("RGB", (gradient, gradient.rotate(90), gradient)).save(before)
        PIL.Image.merge("RGB", (gradient, gradient, gradient.rotate(90))).save(after)
        PIL.Image.new("RGB", (640, 420), "olive").save(other)
        failed = index % 4 == 3
        outputs = () if failed else (after, other) if index == 2 else (after,)
        edits.append(
            GalleryEdit(
                key=HOSTILE if index == 1 else f"photo-{index}",
                instruction=HOSTILE if index == 1 else f"make it {'snow' if index % 2 else 'rain'}",
                before=(picture(before, folder),),
                after=tuple(picture(output, folder) for output in outputs),
                facts={"seed": index, "cost": None if failed else Decimal("0.0357"), "task": f"task-{index}"},
                error=HOSTILE if failed else None,
            )
        )
    page = page_of(*edits, title="Twelve edits", summary={"edits": 12, "failed": 3})
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


@pytest.fixture
async def page(browser, report):
    async with new_page(browser) as page:
        await page.open(report)
        yield page
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith(report.parent.as_uri())] == []
        assert await page.evaluate("window.attacked === undefined")


SHOWN = "[...document.querySelectorAll('main .card')].filter((card) => card.checkVisibility()).length"
TITLE = "document.querySelector('dialog h2').textContent"
OPEN = "document.querySelector('dialog').open"


@pytest.mark.anyio
async def test_opening_requests_only_the_page(page, report):
    await page.screenshot()
    assert page.requests == [report.as_uri()]
    assert await page.evaluate(SHOWN) == 12
    assert await page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


@pytest.mark.anyio
async def test_text_filters(page):
    await page.click("#search")
    await page.write("SNOW seed")
    assert await page.evaluate(SHOWN) == 5
    assert await page.evaluate("document.querySelector('#count').value") == "5 of 12 edits"


@pytest.mark.anyio
async def test_failed_edits_can_be_shown_alone(page):
    await page.click("#failed")
    assert await page.evaluate(SHOWN) == 3


@pytest.mark.anyio
async def test_a_filter_without_matches_says_so(page):
    await page.click("#search")
    await page.write("no such words")
    assert await page.evaluate("document.querySelector('.nothing').checkVisibility()")


@pytest.mark.anyio
async def test_slider_moves_the_border_between_before_and_after(page):
    await page.click(".card .compare input", across=0.8)
    clip = await page.evaluate("getComputedStyle(document.querySelector('.card .after')).clipPath")
    share = float(re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)%\)", clip)[1])
    assert 75 <= share <= 85


@pytest.mark.anyio
async def test_arrow_keys_go_from_edit_to_edit_and_enter_opens_one(page):
    for _ in range(4):
        await page.press("ArrowRight")
    await page.press("ArrowLeft")
    await page.press("Enter")
    await page.until(f"{TITLE} === 'photo-2'")
    await page.press("ArrowLeft")
    await page.press("ArrowLeft")
    await page.press("ArrowLeft")
    assert await page.evaluate(TITLE) == "photo-0"
    await page.press("Escape")
    await page.until(f"!{OPEN} && document.activeElement.textContent === 'photo-0'")


@pytest.mark.anyio
async def test_arrow_keys_move_a_slider_that_was_reached_with_the_keyboard(page):
    await page.click("h2 button")
    await page.evaluate("document.querySelector('dialog #close').focus()")
    await page.press("Tab")
    await page.press("ArrowRight")
    assert await page.evaluate(TITLE) == "photo-0"
    assert await page.evaluate("document.querySelector('dialog .compare input').value") == "51"


@pytest.mark.anyio
async def test_arrow_keys_skip_hidden_cards(page):
    await page.click("#failed")
    await page.evaluate("document.activeElement.blur()")
    await page.press("ArrowRight")
    await page.press("ArrowRight")
    assert await page.evaluate("document.activeElement.textContent") == "photo-7"


@pytest.mark.anyio
async def test_an_opened_edit_shows_the_file_beside_the_page(page, report):
    await page.click("h2 button")
    await page.until("document.querySelector('dialog .after').src.startsWith('file:')")
    assert (report.parent / "out-0.png").as_uri() in page.requests
    assert await page.evaluate("document.querySelector('dialog .after').naturalWidth") == 640


@pytest.mark.anyio
async def test_another_output_can_be_compared(page):
    card = ".card:nth-child(3)"
    before = await page.evaluate(f"document.querySelector('{card} .after').src")
    await page.click(f"{card} [data-kind=after][aria-pressed=false]")
    after = await page.evaluate(f"document.querySelector('{card} .after').src")
    pressed = f"document.querySelectorAll('{card} [data-kind=after][aria-pressed=true]').length"
    assert before != after
    assert await page.evaluate(pressed) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(("width", "shown"), [(390, False), (1280, True)], ids=["phone", "desktop"])
async def test_a_phone_shows_no_help_for_keyboards_and_needs_no_sideways_scrolling(page, report, width, shown):
    await page.open(report, width=width)
    assert await page.evaluate("document.querySelector('.hint').checkVisibility()") is shown
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.anyio
async def test_text_stands_out_in_light_and_dark(page, report):
    """All text of a card has a contrast of at least 4.5 (WCAG AA), and the colors differ in light and dark."""
    ratio = """(() => {
      const rgb = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
        .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
      const light = (color) => { const [r, g, b] = rgb(color); return .2126 * r + .7152 * g + .0722 * b; };
      const ground = (element) => { for (let at = element; at; at = at.parentElement) {
        const color = getComputedStyle(at).backgroundColor; if (!color.startsWith("rgba(0, 0, 0, 0")) return color; } };
      return Math.min(...[...document.querySelectorAll(".text *, .tools label, .tools output, .hint, h1, .summary *")]
        .map((element) => [light(getComputedStyle(element).color), light(ground(element))])
        .map(([one, two]) => (Math.max(one, two) + .05) / (Math.min(one, two) + .05)));
    })()"""
    light = await page.evaluate(ratio), await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.open(report, dark=True)
    dark = await page.evaluate(ratio), await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert min(light[0], dark[0]) >= 4.5
    assert light[1] != dark[1]


@pytest.mark.anyio
async def test_every_control_has_a_name(page):
    nameless = await page.evaluate(
        "[...document.querySelectorAll('button, input, img')].filter((control) => !(control.ariaLabel || control.alt ||"
        " control.textContent.trim() || control.labels?.length || control.querySelector('img')?.alt)).length"
    )
    assert nameless == 0


@pytest.mark.anyio
@pytest.mark.may_block("the test writes the page by itself")
async def test_the_browser_shows_files_where_there_are_no_thumbnails(browser, tmp_path):
    pictures = []
    for name in ("before.png", "after.png"):
        PIL.Image.new("RGB", (500, 400), "navy").save(tmp_path / name)
        pictures.append(Picture(path=name))
    edit = GalleryEdit(key="k", instruction="i", before=(pictures[0],), after=(pictures[1],))
    (tmp_path / "report.html").write_text(page_of(edit), encoding="utf-8")
    async with new_page(browser) as page:
        await page.open(tmp_path / "report.html")
        await page.until("[...document.querySelectorAll('main img')].every((image) => image.naturalWidth === 500)")
        assert page.problems == []
        assert {url.rpartition("/")[2] for url in page.requests} == {"report.html", "before.png", "after.png"}
        assert await page.evaluate("document.querySelector('#count').value") == "1 edit"


@pytest.mark.anyio
async def test_two_thousand_edits_appear_quickly(browser, tmp_path, thumbnail):
    picture = Picture(thumbnail=make_thumbnail(noise(900, 700)), path="x.png")
    report = tmp_path / "report.html"
    edits = (GalleryEdit(key=f"k{i}", instruction="i" * 60, before=(picture,), after=(picture,)) for i in range(2000))
    with report.open("w", encoding="utf-8") as file:
        file.writelines(gallery_html(edits))
    async with new_page(browser) as page:
        await page.open(report)
        await page.until("performance.getEntriesByName('first-contentful-paint').length")
        painted, ready = await page.evaluate(
            "[performance.getEntriesByName('first-contentful-paint')[0].startTime,"
            " performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd]"
        )
        assert await page.evaluate(SHOWN) == 2000
        assert page.requests == [report.as_uri()]
    assert report.stat().st_size > 20_000_000
    assert painted < 5_000
    assert painted < ready
