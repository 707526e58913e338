from hypothesis import given
from hypothesis import strategies as st

from enclave.engine.stops import StopFinder

TEXTS = st.text(alphabet="ab ", max_size=30)
STOPS = st.text(alphabet="ab ", min_size=1, max_size=4)


def feed(pieces: list[str], stops: tuple[str, ...]) -> str:
    finder, shown = StopFinder(stops), ""
    for piece in pieces:
        text, found = finder.feed(piece)
        shown += text
        if found:
            return shown
    return shown + finder.rest()


@given(st.lists(TEXTS, max_size=8), STOPS)
def test_an_answer_is_cut_before_the_stop_string_however_it_arrives(pieces: list[str], stop: str) -> None:
    assert feed(pieces, (stop,)) == "".join(pieces).partition(stop)[0]


@given(st.lists(TEXTS, max_size=8), st.lists(STOPS, max_size=3))
def test_no_stop_string_is_ever_shown(pieces: list[str], stops: list[str]) -> None:
    shown = feed(pieces, tuple(stops))
    assert not any(stop in shown for stop in stops)
    assert "".join(pieces).startswith(shown)


def test_text_that_cannot_become_a_stop_string_is_shown_at_once() -> None:
    finder = StopFinder(("END",))
    assert finder.feed("hello E") == ("hello ", False)
    assert finder.feed("X") == ("EX", False)
