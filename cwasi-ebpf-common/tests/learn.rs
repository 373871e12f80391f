//! Which destinations are enrolled, over any history of gains.

use cwasi_ebpf_common::learn::{ENROLMENT_COST, LIMIT, PROBE_EVERY, Record, SMALL_COST, Sent, TRIAL, WINDOW};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn sent() -> impl Strategy<Value = Sent> {
    let messages = prop_oneof![0_u64..4, 0_u64..1000, any::<u64>()];
    let small = prop_oneof![3 => Just(0_u64), 1 => 0_u64..1000, 1 => any::<u64>()];
    (messages, small).prop_map(|(redirected, small)| Sent { redirected, small })
}

/// What happens to the record of a destination.
#[derive(Clone, Debug)]
enum Event {
    Dialled,
    Closed {
        active: Sent,
        passive: Sent,
        passive_first: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Dialled),
        1 => (sent(), sent(), any::<bool>()).prop_map(|(active, passive, passive_first)| Event::Closed {
            active,
            passive,
            passive_first,
        }),
    ]
}

fn closed(record: Record, active: Sent, passive: Sent, passive_first: bool) -> Record {
    if passive_first {
        record.closed_passive(passive).closed_active(active)
    } else {
        record.closed_active(active).closed_passive(passive)
    }
}

/// One connection, as a function makes it: enrolled or not, and closed with these gains if it was.
fn connection(record: Record, active: Sent, passive: Sent) -> (bool, Record) {
    let (enrol, record) = record.admit();
    (
        enrol,
        if enrol {
            closed(record, active, passive, false)
        } else {
            record
        },
    )
}

const fn messages(redirected: u64) -> Sent {
    Sent { redirected, small: 0 }
}

/// Failures are kept beside this file: proptest does not find the directory of an integration test by itself.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_gain_is_limited(sent in sent()) {
        prop_assert!((-LIMIT..=LIMIT).contains(&sent.gain()));
    }

    #[test]
    fn more_redirected_messages_gain_more(redirected in 0_u64..1000, more in 0_u64..1000) {
        prop_assert!(messages(redirected).gain() <= messages(redirected + more).gain());
    }

    /// A connection counts for what it was on the whole, however long it was.
    #[test]
    fn the_larger_part_decides(small in 1_u64..1 << 40, redirected in 0_u64..1 << 40) {
        let gain = Sent { redirected, small }.gain();
        prop_assert_eq!(gain.signum(), redirected.cmp(&(SMALL_COST.unsigned_abs() * small)) as i64);
    }

    /// Never more than `PROBE_EVERY - 1` connections in a row are left to TCP, whatever closes in between.
    #[test]
    fn probes_come_in_time(events in prop::collection::vec(event(), 1..600)) {
        let (mut record, mut in_a_row) = (Record::default(), 0);
        for event in events {
            match event {
                Event::Dialled => {
                    let (enrol, next) = record.admit();
                    record = next;
                    in_a_row = if enrol { 0 } else { in_a_row + 1 };
                    prop_assert!(in_a_row < PROBE_EVERY);
                }
                Event::Closed { active, passive, passive_first } => {
                    record = closed(record, active, passive, passive_first);
                }
            }
        }
    }

    #[test]
    fn the_balance_is_bounded(events in prop::collection::vec((sent(), sent(), any::<bool>()), 1..400)) {
        let most = i64::from(WINDOW) * (2 * LIMIT + ENROLMENT_COST);
        let mut record = Record::default();
        for (active, passive, passive_first) in events {
            record = closed(record, active, passive, passive_first);
            prop_assert!((-most..=most).contains(&record.balance), "{:?}", record);
            prop_assert!(record.connections < WINDOW);
        }
    }

    /// A destination whose connections all pay for their enrolment is always enrolled.
    #[test]
    fn a_paying_destination_is_always_admitted(gains in prop::collection::vec(
        (ENROLMENT_COST.unsigned_abs()..1000, 0_u64..1000), 1..300,
    )) {
        let mut record = Record::default();
        for (active, passive) in gains {
            let (enrol, next) = connection(record, messages(active), messages(passive));
            prop_assert!(enrol);
            record = next;
        }
    }

    /// A destination that does not pay is left alone after its trial, but for the probes.
    #[test]
    fn a_losing_destination_is_left_alone(count in 1_u32..1000) {
        let (mut record, mut enrolled) = (Record::default(), 0);
        for _ in 0..count {
            let (enrol, next) = connection(record, messages(1), messages(1));
            enrolled += u32::from(enrol);
            record = next;
        }
        prop_assert_eq!(enrolled, count.min(TRIAL + count.saturating_sub(TRIAL) / PROBE_EVERY));
    }

    /// Whatever a destination was, when its connections pay it is enrolled for good after a bounded number of probes.
    #[test]
    fn a_destination_that_pays_again_is_admitted_again(
        past in prop::collection::vec((sent(), sent()), 0..200),
    ) {
        let mut record = Record::default();
        for (active, passive) in past {
            record = closed(record, active, passive, false);
        }
        // Each probe gains at least 2 * 200 - ENROLMENT_COST of what a whole window can have lost.
        let probes = i64::from(WINDOW) * (2 * LIMIT + ENROLMENT_COST) / (2 * 200 - ENROLMENT_COST) + 1;
        for _ in 0..probes * i64::from(PROBE_EVERY) {
            record = connection(record, messages(200), messages(200)).1;
        }
        for _ in 0..100 {
            let (enrol, next) = connection(record, messages(200), messages(200));
            prop_assert!(enrol, "{:?}", record);
            record = next;
        }
    }
}

/// Connections that overlap: all their decisions come before any of their gains.
#[test]
fn overlapping_connections_count_alike() {
    let mut record = Record::default();
    for _ in 0..10 {
        let (enrol, next) = record.admit();
        assert!(enrol, "nothing is known yet");
        record = next;
    }
    for _ in 0..10 {
        record = closed(record, messages(1), messages(1), true);
    }
    assert!(!record.admit().0);
    assert_eq!(record.connections, 10);
}
