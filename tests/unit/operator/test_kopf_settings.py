"""How kopf is set up: what of it nobody would notice until a bad day."""

from __future__ import annotations

from itertools import islice

from cai_operator.main import kopf_settings


def test_kopf_never_gives_a_request_up():
    backoffs = kopf_settings().networking.error_backoffs
    for _ in range(2):  # every request begins from the start
        waits = list(islice(iter(backoffs), 1000))
        assert len(waits) == 1000
        assert waits[0] == 1
        assert max(waits) <= 30
    assert not hasattr(backoffs, "__len__")


def test_a_silent_watch_ends_after_bookmarks_should_have_come_and_before_the_server_ends_it():
    watching = kopf_settings().watching
    assert 60 < watching.inactivity_timeout < watching.server_timeout < watching.client_timeout
