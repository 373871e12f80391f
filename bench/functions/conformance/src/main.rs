//! What a host of `wasi:sockets/tcp` answers.
//!
//! `tcp-conformance CASE FAMILY` goes through one case over `ipv4` or `ipv6` loopback, with both ends of every connection in this
//! guest, and writes each call with its answer as a line of `/transcript`. `tcp-conformance --list` writes the cases' names there.
//! `tcp-conformance CASE FAMILY serve PORT` and `… connect PORT` are the two ends of a case of two guests.
//!
//! Nothing is judged here: two hosts conform to each other when their transcripts are the same. What differs from run to run is
//! not written: ports have the names P1, P2, … in the order in which a section
//! has them, and amounts that a host may choose are
//! only told as none or some.

mod accept;
mod bind;
mod closing;
mod connect;
mod flow;
mod handles;
mod net;
mod options;
mod permits;
mod polling;
mod shutdown;
mod states;
mod streams;
mod transcript;
mod two;

use std::env;
use std::process::ExitCode;

use wasip2::sockets::network::IpAddressFamily;

use crate::net::Net;
use crate::transcript::Transcript;

/// One end of a case: what it does, writing down what it is answered.
type Case = fn(&Transcript, &Net);
/// What one of two guests does, given the port that the serving one listens on.
type Role = fn(&Transcript, &Net, u16);

const CASES: [&[(&str, Case)]; 12] = [
    &accept::CASES,
    &bind::CASES,
    &closing::CASES,
    &connect::CASES,
    &flow::CASES,
    &handles::CASES,
    &options::CASES,
    &permits::CASES,
    &polling::CASES,
    &shutdown::CASES,
    &states::CASES,
    &streams::CASES,
];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let transcript = Transcript::create();
    if arguments == ["--list"] {
        for (name, _) in CASES.into_iter().flatten() {
            transcript.line(name);
        }
        for (name, _, _) in two::CASES {
            transcript.line(&format!("{name} (two guests)"));
        }
        return ExitCode::SUCCESS;
    }
    if run(&transcript, &arguments).is_none() {
        eprintln!("usage: tcp-conformance --list | CASE ipv4|ipv6 [serve PORT | connect PORT]");
        return ExitCode::from(2);
    }
    transcript.line("end");
    ExitCode::SUCCESS
}

fn run(transcript: &Transcript, arguments: &[&str]) -> Option<()> {
    let (&[name, family], role) = arguments.split_first_chunk()?;
    let net = Net::new(match family {
        "ipv4" => IpAddressFamily::Ipv4,
        "ipv6" => IpAddressFamily::Ipv6,
        _ => return None,
    });
    match role {
        [] => {
            let (_, case) = CASES.into_iter().flatten().find(|(known, _)| *known == name)?;
            case(transcript, &net);
        }
        [role, port] => {
            let (_, serve, connect) = two::CASES.iter().find(|(known, ..)| *known == name)?;
            let role = match *role {
                "serve" => serve,
                "connect" => connect,
                _ => return None,
            };
            role(transcript, &net, port.parse().ok()?);
        }
        _ => return None,
    }
    Some(())
}
