//! The picture of who talks to whom: two columns of functions, and between them a line for each path that a pair uses.

use std::collections::{BTreeMap, BTreeSet};

use cwasi_client::protocol::PathCounts;
use maud::{Markup, html};

use super::view::{amount, name_of};
use crate::agent::{KERNEL, NETWORK, PROCESS, Pair, Party, PathBytes};

/// Most parties that are drawn: more could not be told apart.
const MAX_DRAWN: usize = 24;
/// Longest name and namespace beside a node, in characters; the whole is its tooltip.
const MAX_LABEL: [usize; 2] = [16, 20];

/// Sizes in units of the picture, which is as many pixels wide where there is room.
const WIDTH: i64 = 800;
const COLUMNS: [i64; 2] = [262, 538];
const ROW: i64 = 58;
const MARGIN: i64 = 34;
const RADIUS: i64 = 8;

/// A count of what is drawn, of which there is never much, for reckoning with sizes.
fn units(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A line of the picture.
struct Line<'a> {
    pair: &'a Pair,
    path: &'static str,
    /// Open connections; 0 where there were some before.
    open: u64,
    bytes: u64,
    /// Up or down from the middle of its nodes, so that lines of one pair lie beside each other.
    shift: i64,
}

/// Where a party is drawn.
#[derive(Clone, Copy)]
struct Place {
    side: usize,
    row: usize,
    /// How much lower its column begins than the longer one.
    lower: i64,
}

impl Place {
    fn x(self) -> i64 {
        COLUMNS[self.side]
    }

    fn y(self) -> i64 {
        MARGIN + self.lower + units(self.row) * ROW
    }
}

type Places<'a> = BTreeMap<&'a Party, Place>;

/// The lines of a pair: one for each path of its open connections; where none is open, one for the path that moved most.
fn lines(pair: &Pair) -> Vec<Line<'_>> {
    let PathCounts {
        kernel,
        network,
        process,
    } = pair.open;
    let bytes = |of: fn(&PathBytes) -> u64| pair.sent.iter().map(of).fold(0, u64::saturating_add);
    let all = [
        (KERNEL, kernel, bytes(|sent| sent.kernel)),
        (PROCESS, process, bytes(|sent| sent.process)),
        (NETWORK, network, bytes(|sent| sent.network)),
    ];
    let mut used: Vec<_> = all.into_iter().filter(|(_, open, _)| *open > 0).collect();
    if used.is_empty() {
        used.extend(all.into_iter().rev().max_by_key(|(_, _, bytes)| *bytes));
    }
    let middle = units(used.len()) - 1;
    let shifted = (0..).zip(used);
    shifted
        .map(|(number, (path, open, bytes))| Line {
            pair,
            path,
            open,
            bytes,
            shift: 8 * number - 4 * middle,
        })
        .collect()
}

/// The parties that are drawn: those of the first pairs, as many as there is room for.
fn drawn(pairs: &[Pair]) -> BTreeSet<&Party> {
    let mut parties = BTreeSet::new();
    for pair in pairs {
        let [a, b] = &pair.ends;
        let new = [a, b].iter().filter(|party| !parties.contains(**party)).count();
        if parties.len() + new <= MAX_DRAWN {
            parties.extend([a, b]);
        }
    }
    parties
}

/// Places each party across from those that it talks to, as far as that can be. The same parties are placed alike each time.
fn place<'a>(parties: &BTreeSet<&'a Party>, pairs: &[&'a Pair]) -> Places<'a> {
    let mut neighbours: BTreeMap<&Party, BTreeSet<&Party>> = BTreeMap::new();
    for pair in pairs {
        let [a, b] = &pair.ends;
        neighbours.entry(a).or_default().insert(b);
        neighbours.entry(b).or_default().insert(a);
    }
    let mut sides: BTreeMap<&Party, usize> = BTreeMap::new();
    let mut waiting: Vec<&Party> = parties.iter().rev().copied().collect();
    while let Some(party) = waiting.pop() {
        if sides.contains_key(party) {
            continue;
        }
        let around = &neighbours[party];
        let on = |side| {
            around
                .iter()
                .filter(|other| sides.get(*other) == Some(&side))
                .count()
        };
        let side = match (on(0), on(1)) {
            _ if *party == Party::Elsewhere => 1,
            (left, right) => usize::from(left > right),
        };
        sides.insert(party, side);
        // Neighbours come next, so that they find this one placed.
        waiting.extend(around.iter().rev().filter(|other| !sides.contains_key(*other)));
    }
    let mut columns: [Vec<&Party>; 2] = Default::default();
    for (party, side) in &sides {
        columns[*side].push(party);
    }
    // Rows follow those across, which keeps lines from crossing.
    for side in [1, 0] {
        let across: BTreeMap<&Party, usize> = columns[1 - side].iter().copied().zip(0..).collect();
        columns[side].sort_by_key(|party| {
            let rows: Vec<usize> = neighbours[*party]
                .iter()
                .filter_map(|other| across.get(other).copied())
                .collect();
            let mean = match rows.len() {
                0 => usize::MAX,
                count => rows.iter().sum::<usize>() * 1000 / count,
            };
            (**party == Party::Elsewhere, mean)
        });
    }
    let longest = columns[0].len().max(columns[1].len());
    let mut places = Places::new();
    for (side, column) in columns.iter().enumerate() {
        let lower = units(longest - column.len()) * ROW / 2;
        for (row, party) in column.iter().enumerate() {
            places.insert(party, Place { side, row, lower });
        }
    }
    places
}

/// The way of a line between two places.
fn way(from: Place, to: Place, shift: i64) -> String {
    let (from, to) = if from.side <= to.side {
        (from, to)
    } else {
        (to, from)
    };
    let (x, y, end_x, end_y) = (from.x(), from.y() + shift, to.x(), to.y() + shift);
    let inwards = if from.side == 0 { 1 } else { -1 };
    if from.side != to.side {
        let middle = (x + end_x) / 2;
        return format!("M{x},{y} C{middle},{y} {middle},{end_y} {end_x},{end_y}");
    }
    if from.row == to.row {
        // To itself.
        let bow = x + inwards * (54 + 2 * shift);
        return format!("M{x},{y} C{bow},{} {bow},{} {x},{y}", y - 30, y + 30);
    }
    let rows = units(from.row.abs_diff(to.row));
    let bow = x + inwards * ((36 + 24 * rows).min(220) + shift);
    format!("M{x},{y} C{bow},{y} {bow},{end_y} {end_x},{end_y}")
}

/// A text that fits beside a node.
fn short(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let head: String = text.chars().take(longest - 1).collect();
    head + "…"
}

/// How wide a line is: wider with more open connections, but never without a doubt as to its ends.
fn weight(open: u64) -> u32 {
    2 + open.checked_ilog2().unwrap_or(0).min(4)
}

fn line(line: &Line<'_>, places: &Places<'_>) -> Markup {
    let [a, b] = &line.pair.ends;
    let (from, to) = (places[a], places[b]);
    let opened = match line.open {
        0 => "no open connection".to_owned(),
        1 => "1 open connection".to_owned(),
        open => format!("{open} open connections"),
    };
    let state = if line.open > 0 { "" } else { " past" };
    html! {
        path class={ "line " (line.path) (state) } d=(way(from, to, line.shift)) stroke-width=(weight(line.open))
            data-a=(name_of(a)) data-b=(name_of(b)) data-path=(line.path) data-open=(line.open) {
            title { (name_of(a)) " – " (name_of(b)) ": " (line.path) ", " (opened) ", " (amount(line.bytes)) }
        }
    }
}

fn node(party: &Party, place: Place) -> Markup {
    let (class, name, namespace) = match party {
        Party::Elsewhere => ("node elsewhere", "elsewhere", "not of this node"),
        Party::Function(title) => {
            let (namespace, name) = title.split_once('/').unwrap_or(("", title));
            ("node", name, namespace)
        }
    };
    let (x, y) = (place.x(), place.y());
    let (anchor, beside) = if place.side == 0 {
        ("end", x - RADIUS - 8)
    } else {
        ("start", x + RADIUS + 8)
    };
    html! {
        g class=(class) data-party=(name_of(party)) {
            title { (name_of(party)) }
            circle cx=(x) cy=(y) r=(RADIUS) {}
            text x=(beside) y=(y) text-anchor=(anchor) { (short(name, MAX_LABEL[0])) }
            text class="namespace" x=(beside) y=(y + 20) text-anchor=(anchor) { (short(namespace, MAX_LABEL[1])) }
        }
    }
}

/// The picture, and how many of the pairs are not in it.
pub(super) fn draw(pairs: &[Pair]) -> (Markup, usize) {
    let parties = drawn(pairs);
    let shown: Vec<&Pair> = pairs
        .iter()
        .filter(|pair| pair.ends.iter().all(|end| parties.contains(end)))
        .collect();
    let places = place(&parties, &shown);
    let lowest = places.values().map(|place| place.y()).max().unwrap_or(0);
    let height = lowest + MARGIN + 8;
    let picture = html! {
        svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label="who talks to whom; the table of connections has the same in words" {
            @for pair in &shown {
                @for of_path in lines(pair) { (line(&of_path, &places)) }
            }
            @for (party, place) in &places { (node(party, *place)) }
        }
    };
    (picture, pairs.len() - shown.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair((a, b, open): (u8, u8, [u8; 3])) -> Pair {
        let party = |number| match number {
            0 => Party::Elsewhere,
            _ => Party::Function(format!("default/f{number}")),
        };
        let [kernel, network, process] = open.map(u64::from);
        Pair {
            ends: [party(a), party(b)],
            open: PathCounts {
                kernel,
                network,
                process,
            },
            sent: [PathBytes::default(); 2],
        }
    }

    proptest! {
        #[test]
        fn every_pair_is_drawn_or_counted(ends in prop::collection::btree_map((0_u8..60, 0_u8..60), any::<[u8; 3]>(), 0..90)) {
            let pairs: Vec<Pair> = ends.into_iter().map(|((a, b), open)| pair((a, b, open))).collect();
            let parties = drawn(&pairs);
            prop_assert!(parties.len() <= MAX_DRAWN);
            let shown: Vec<&Pair> = pairs.iter().filter(|pair| pair.ends.iter().all(|end| parties.contains(end))).collect();
            let places = place(&parties, &shown);
            let spots: BTreeSet<_> = places.values().map(|place| (place.x(), place.y())).collect();
            prop_assert_eq!(spots.len(), parties.len(), "each has a place of its own");
            let (picture, missing) = draw(&pairs);
            prop_assert_eq!(missing, pairs.len() - shown.len());
            let expected: usize = shown.iter().map(|pair| lines(pair).len()).sum();
            prop_assert_eq!(picture.into_string().matches("<path ").count(), expected);
        }
    }

    #[test]
    fn paths_of_one_pair_are_drawn_beside_each_other() {
        let both = pair((1, 2, [3, 1, 0]));
        let shown: Vec<_> = lines(&both)
            .iter()
            .map(|line| (line.path, line.open, line.shift))
            .collect();
        assert_eq!(shown, [(KERNEL, 3, -4), (NETWORK, 1, 4)]);
        let mut past = pair((1, 2, [0, 0, 0]));
        past.sent[1].process = 5;
        let shown: Vec<_> = lines(&past)
            .iter()
            .map(|line| (line.path, line.open, line.shift))
            .collect();
        assert_eq!(shown, [(PROCESS, 0, 0)]);
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(short("checkout", 8), "checkout");
        assert_eq!(short("größenänderung", 5), "größ…");
    }
}
