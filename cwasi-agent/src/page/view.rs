//! The HTML of the page. maud escapes every text that is put into it.

use std::fs;
use std::sync::LazyLock;

use cwasi_client::protocol::{Degradation, PathCounts};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{SCRIPT, STYLE, graph};
use crate::agent::{Fallback, KERNEL, Listed, NETWORK, Overview, PROCESS, Pair, Party, PathBytes, Shown};
use crate::cli::bytes;

/// Name of the node, as its processes see it.
static NODE: LazyLock<String> = LazyLock::new(|| {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
});

/// The whole document.
pub(super) fn document(overview: &Overview) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "cwasi on " (*NODE) }
                // A browser would ask for /favicon.ico otherwise.
                link rel="icon" href="data:,";
                noscript { meta http-equiv="refresh" content="5"; }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "cwasi" }
                    p { (*NODE) }
                    p .version { span #live {} " agent " (overview.version.version) }
                }
                p #stale .problem hidden { "The agent does not answer. This is what it told last." }
                (content(overview))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// What changes from look to look.
fn content(overview: &Overview) -> Markup {
    html! {
        main {
            (health(overview))
            (totals(overview))
            section {
                h2 { "Who talks to whom" }
                (picture(&overview.pairs))
            }
            (pairs(&overview.pairs))
            (functions(&overview.functions))
            (fallbacks(&overview.fallbacks))
        }
    }
}

/// What a party is called.
pub(super) fn name_of(party: &Party) -> &str {
    match party {
        Party::Function(title) => title,
        Party::Elsewhere => "elsewhere",
    }
}

/// Bytes for people.
pub(super) fn amount(count: u64) -> String {
    bytes(count)
}

fn health(overview: &Overview) -> Markup {
    let (class, verdict, detail) = match (
        overview.accelerating,
        overview.enabled,
        overview.degraded.is_empty(),
    ) {
        (true, _, true) => ("good", "Accelerating", "All is well."),
        (true, _, false) => (
            "fair",
            "Accelerating, degraded",
            "Not everything works as it should:",
        ),
        (false, false, _) => (
            "fair",
            "Switched off",
            "Functions run on plain TCP until `cwasi-agent enable`.",
        ),
        (false, true, _) => ("bad", "Not accelerating", "Functions run on plain TCP:"),
    };
    html! {
        section #health class={ "verdict " (class) } {
            p .word { (verdict) }
            p { (detail) }
            @for Degradation { reason, detail, remedy } in &overview.degraded {
                div .problem {
                    p { code { (reason) } " " (detail) }
                    p .remedy { (remedy) }
                }
            }
        }
    }
}

/// A bar of three colours, as wide as the shares of the paths.
fn bar(kernel: u64, process: u64, network: u64) -> Markup {
    let all = u128::from(kernel) + u128::from(process) + u128::from(network);
    let permille = |part: u64| (u128::from(part) * 1000).checked_div(all).unwrap_or(0);
    let percent = |permille: u128| format!("{}.{}%", permille / 10, permille % 10);
    let (first, second) = (permille(kernel), permille(process));
    html! {
        svg .bar aria-hidden="true" {
            @if all > 0 {
                rect .network width="100%" height="100%" {}
                rect .process width=(percent(first + second)) height="100%" {}
                rect .kernel width=(percent(first)) height="100%" {}
            }
        }
    }
}

fn shares(name: &str, [kernel, process, network]: [String; 3]) -> Markup {
    html! {
        dl aria-label=(name) {
            div { dt .key.kernel { (KERNEL) } dd { (kernel) } }
            div { dt .key.process { (PROCESS) } dd { (process) } }
            div { dt .key.network { (NETWORK) } dd { (network) } }
        }
    }
}

fn totals(overview: &Overview) -> Markup {
    let PathCounts {
        kernel,
        network,
        process,
    } = overview.open;
    let sent = overview.sent;
    let accelerated = sent.kernel.saturating_add(sent.process);
    let share = (u128::from(accelerated) * 100).checked_div(u128::from(sent.sum()));
    let left: u64 = overview
        .fallbacks
        .iter()
        .map(|fallback| fallback.count)
        .fold(0, u64::saturating_add);
    html! {
        section .tiles {
            div .tile {
                h2 { "Functions" }
                p .number { (overview.functions.shown.len() + overview.functions.more) }
            }
            div .tile.wide {
                h2 { "Open connections" }
                p .number { (kernel.saturating_add(network).saturating_add(process)) }
                (bar(kernel, process, network))
                (shares("open connections by path", [kernel, process, network].map(|count| count.to_string())))
            }
            div .tile.wide {
                h2 { "Sent" }
                p .number {
                    (amount(sent.sum()))
                    @if let Some(share) = share { span .aside { (share) "% accelerated" } }
                }
                (bar(sent.kernel, sent.process, sent.network))
                (shares("sent by path", [sent.kernel, sent.process, sent.network].map(amount)))
            }
            div .tile {
                h2 { "Fallbacks to TCP" }
                p .number { (left) }
            }
        }
    }
}

fn picture(pairs: &Listed<Pair>) -> Markup {
    if pairs.shown.is_empty() {
        return html! { p .nothing { "No function has talked to anybody yet." } };
    }
    let (picture, missing) = graph::draw(&pairs.shown);
    let missing = missing + pairs.more;
    html! {
        div .picture { (picture) }
        p .legend {
            span .key.kernel { "kernel: from socket to socket" }
            span .key.process { "process: inside of one process" }
            span .key.network { "network: by TCP" }
            span .key.past { "faint: no connection is open now" }
        }
        @if missing > 0 { p .nothing { (more(missing, "pair is", "pairs are")) " not drawn." } }
    }
}

fn more(count: usize, one: &str, many: &str) -> String {
    format!("{count} more {}", if count == 1 { one } else { many })
}

/// A column of a narrow screen: what it holds stands before the value.
fn cell(label: &str, value: &Markup) -> Markup {
    html! { td data-label=(label) { div { (value) } } }
}

fn number(label: &str, text: &str) -> Markup {
    html! { td .amount data-label=(label) { (text) } }
}

/// What went by a path. Nothing is no more than a mark, and not even that on a narrow screen.
fn sent_by(path: &str, bytes: u64) -> Markup {
    match bytes {
        0 => html! { td .amount.none data-label=(path) { "–" } },
        _ => number(path, &amount(bytes)),
    }
}

fn pairs(pairs: &Listed<Pair>) -> Markup {
    html! {
        section {
            h2 { "Connections by pair" }
            @if pairs.shown.is_empty() { p .nothing { "None." } } @else {
                table #pairs {
                    thead { tr {
                        th { "Between" } th { "and" } th .amount { "Open" } th { "Paths" }
                        th .amount { "Kernel" } th .amount { "Process" } th .amount { "Network" }
                    } }
                    tbody { @for pair in &pairs.shown { (pair_row(pair)) } }
                }
            }
            @if pairs.more > 0 { p .nothing { (more(pairs.more, "pair.", "pairs.")) } }
        }
    }
}

fn pair_row(pair: &Pair) -> Markup {
    let PathCounts {
        kernel,
        network,
        process,
    } = pair.open;
    let used = [(KERNEL, kernel), (PROCESS, process), (NETWORK, network)];
    let sum = |of: fn(&PathBytes) -> u64| of(&pair.sent[0]).saturating_add(of(&pair.sent[1]));
    let name = |party: &Party| html! { bdi { (name_of(party)) } };
    let [a, b] = &pair.ends;
    let open = kernel.saturating_add(network).saturating_add(process);
    html! {
        tr {
            (cell("Between", &name(a)))
            (cell("and", &name(b)))
            (number("Open", &open.to_string()))
            (cell("Paths", &html! {
                @for (path, count) in used.iter().filter(|(_, count)| *count > 0) {
                    span class={ "key " (path) } { (path) " " (count) }
                }
                @if open == 0 { span .aside { "–" } }
            }))
            (sent_by("Kernel", sum(|sent| sent.kernel)))
            (sent_by("Process", sum(|sent| sent.process)))
            (sent_by("Network", sum(|sent| sent.network)))
        }
    }
}

fn functions(functions: &Listed<Shown>) -> Markup {
    html! {
        section {
            h2 { "Functions" }
            @if functions.shown.is_empty() { p .nothing { "None is registered." } } @else {
                table #functions {
                    thead { tr {
                        th { "Function" } th { "Pod" } th { "Accelerated" } th { "Addresses" }
                        th .amount { "Kernel" } th .amount { "Process" } th .amount { "Network" }
                    } }
                    tbody { @for function in &functions.shown { (function_row(function)) } }
                }
            }
            @if functions.more > 0 { p .nothing { (more(functions.more, "function.", "functions.")) } }
        }
    }
}

fn some_of(list: &Listed<String>) -> Markup {
    html! {
        @for item in &list.shown { span .item { (item) } " " }
        @if list.more > 0 { span .aside { "+" (list.more) } }
    }
}

fn function_row(function: &Shown) -> Markup {
    html! {
        tr {
            (cell("Function", &html! {
                bdi { (function.name) }
                @if !function.members.shown.is_empty() {
                    div .aside { "runs " (some_of(&function.members)) }
                }
            }))
            @match &function.pod {
                Some(pod) => (cell("Pod", &html! { bdi { (pod) } })),
                None => td .none data-label="Pod" { "–" },
            }
            (cell("Accelerated", &html! {
                @match &function.not_accelerated {
                    None => span .yes { "yes" },
                    Some(reason) => { span .no { "no" } " " span .aside { (reason) } }
                }
            }))
            (cell("Addresses", &some_of(&function.addresses)))
            (sent_by("Kernel", function.sent.kernel))
            (sent_by("Process", function.sent.process))
            (sent_by("Network", function.sent.network))
        }
    }
}

fn fallbacks(fallbacks: &[Fallback]) -> Markup {
    html! {
        section {
            h2 { "Why the rest goes by TCP" }
            @if fallbacks.is_empty() { p .nothing { "Nothing was left to TCP, and nothing went back to it." } } @else {
                table #fallbacks {
                    thead { tr { th { "Reason" } th .amount { "Count" } th { "Because" } th { "What to do" } } }
                    tbody {
                        @for Fallback { reason, count, advice } in fallbacks {
                            tr {
                                (cell("Reason", &html! { code { (reason) } }))
                                (number("Count", &count.to_string()))
                                (cell("Because", &html! { (advice.meaning) }))
                                (cell("What to do", &html! { (advice.remedy.unwrap_or("nothing: TCP is the right path")) }))
                            }
                        }
                    }
                }
            }
        }
    }
}
