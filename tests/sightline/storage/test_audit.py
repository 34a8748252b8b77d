"""The audit list gives back what was written in it, the newest first, page by page."""

from sightline.storage.audit import NewAuditEvent
from sightline.storage.store import Store


def test_events_come_back_newest_first_in_pages(store: Store) -> None:
    for number in range(5):
        store.audit.append(NewAuditEvent("ci (1)", "collection.delete", f"c{number}", "abc", {"items": number}))

    first = store.audit.page(limit=2)
    second = store.audit.page(limit=2, before=first[-1].event_id)
    third = store.audit.page(limit=2, before=second[-1].event_id)

    assert [event.subject for event in [*first, *second, *third]] == ["c4", "c3", "c2", "c1", "c0"]
    assert store.audit.page(before=third[-1].event_id) == []
    event = first[0]
    assert (event.actor, event.action, event.request_id, event.details) == ("ci (1)", "collection.delete", "abc", {"items": 4})
    assert first[0].at >= third[0].at


def test_an_event_that_came_meanwhile_moves_no_page(store: Store) -> None:
    for number in range(3):
        store.audit.append(NewAuditEvent("a", "key.create", str(number)))
    first = store.audit.page(limit=2)
    store.audit.append(NewAuditEvent("a", "key.create", "late"))
    assert [event.subject for event in store.audit.page(limit=2, before=first[-1].event_id)] == ["0"]
