import itertools

from hypothesis import given
from hypothesis import strategies as st
from transformers_engine.stopping import StopStrings

letters = st.text(alphabet="ab", max_size=12)


def shown(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, str | None]:
    filtered = StopStrings(stops)
    text = "".join(filtered.push(piece) for piece in pieces)
    return text + ("" if filtered.matched is not None else filtered.flush()), filtered.matched


def test_without_stops_everything_passes_at_once() -> None:
    assert StopStrings(()).push("abc") == "abc"


def test_a_stop_across_pieces_is_never_shown() -> None:
    assert shown(("END",), ["hello E", "N", "D and more"]) == ("hello ", "END")


def test_a_false_beginning_is_shown_once_it_is_decided() -> None:
    filtered = StopStrings(("END",))
    assert filtered.push("an E") == "an "
    assert filtered.push("lk") == "Elk"


def test_the_stop_that_begins_first_wins() -> None:
    assert shown(("later", "so"), ["so, later"]) == ("", "so")


def test_nothing_comes_after_a_match() -> None:
    filtered = StopStrings(("x",))
    assert filtered.push("axb") == "a"
    assert filtered.push("c") == ""


@given(letters, st.lists(st.integers(0, 12)), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_the_pieces_do_not_matter(text: str, cuts: list[int], stops: list[str]) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    expected = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    whole, matched = shown(tuple(stops), pieces)
    # Piecewise, the stop that is complete first ends the text; it may begin later than one that ends later.
    assert text.startswith(whole)
    assert (matched is not None) == any(stop in text for stop in stops)
    assert len(whole) >= expected
    assert not any(stop in whole for stop in stops)
