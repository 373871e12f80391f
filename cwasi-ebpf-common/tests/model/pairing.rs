//! The two ends of a connection find each other through offers, while one more socket uses the memory of offers and sockets again.
//!
//! Each end does what the sock_ops program does, step by step: its entry in FLOWS, its offer in PAIRS, its place in the
//! sockhash, the other end's offer, a message, close. A map's element is free for another key as soon as it is removed
//! (BPF_F_NO_PREALLOC), also for who is still reading it; and a processor may carry out loads, and stores, in another order
//! than they are written in: the fields of an offer are read and written in every order.

use cwasi_ebpf_common::maps::Role;
use stateright::{Model, Property};

use super::explore;

/// An end: its key in PAIRS, and the cookie of its socket. The third one's other end is not enrolled.
type End = usize;
const ENDS: usize = 3;

fn role(end: End) -> Role {
    [Role::Active, Role::Passive, Role::Active][end]
}

fn other(end: End) -> End {
    [1, 0, 3][end]
}

/// What makes an offer: fields that are stored and loaded one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Offer {
    owner: Option<End>,
    cookie: Option<End>,
    sock: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Field {
    Owner,
    Cookie,
    Sock,
}

const FIELDS: [Field; 3] = [Field::Owner, Field::Cookie, Field::Sock];

impl Offer {
    fn copy(&mut self, from: &Self, field: Field) {
        match field {
            Field::Owner => self.owner = from.owner,
            Field::Cookie => self.cookie = from.cookie,
            Field::Sock => self.sock = from.sock,
        }
    }

    fn lacks(&self, field: Field) -> bool {
        match field {
            Field::Owner => self.owner.is_none(),
            Field::Cookie => self.cookie.is_none(),
            Field::Sock => self.sock.is_none(),
        }
    }
}

/// Where an end is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Begin,
    /// Looks for the other end's offer.
    Look,
    /// Copies it.
    Read {
        element: usize,
        seen: Offer,
    },
    /// Has copied it: is it the other end's?
    Confirm {
        seen: Offer,
    },
    /// Takes it out of the map.
    Take {
        seen: Offer,
    },
    Flow,
    /// Writes its own offer.
    Write {
        element: usize,
        written: Offer,
    },
    Sockhash,
    Open,
    /// Has seen its peer's cookie at its address, and redirects by the cookie.
    Redirect,
    /// Left the sockhash.
    Unhashed,
    /// Took back its offer.
    Unoffered,
    /// Its memory is free.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EndState {
    at: At,
    sock: Option<usize>,
    /// Cookie and address of the peer.
    peer: Option<(End, usize)>,
    looked: bool,
    sent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    ends: [EndState; ENDS],
    /// The memory of offers: what is in it outlasts its use.
    elements: [Offer; ENDS],
    in_use: [bool; ENDS],
    /// PAIRS: element by key.
    pairs: [Option<usize>; ENDS + 1],
    /// FLOWS: end, that is cookie and pair, by address.
    flows: [Option<End>; ENDS],
    sockhash: [bool; ENDS],
    /// The cookie in the memory of a socket, which outlasts it.
    cookies: [Option<End>; ENDS],
    misdelivered: bool,
    delivered: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Go(End),
    Field(End, Field),
    /// The sockhash is full.
    Refuse(End),
    Close(End),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    /// Whether loads and stores are seen in the order in which they are written.
    ordered: bool,
    /// Whether what was copied is confirmed by the flow of the end that it names.
    confirmed: bool,
}

impl Case {
    fn fields(&self, offer: &Offer, reads: bool) -> Vec<Field> {
        // The program reads the owner last; the kernel writes it first.
        let mut fields: Vec<_> = FIELDS.into_iter().filter(|field| offer.lacks(*field)).collect();
        if reads {
            fields.reverse();
        }
        fields.truncate(if self.ordered { 1 } else { FIELDS.len() });
        fields
    }
}

impl World {
    fn active_is_open(&self, end: End) -> bool {
        !matches!(
            self.ends[end].at,
            At::Begin | At::Flow | At::Write { .. } | At::Sockhash
        )
    }

    fn is_read(&self, element: usize) -> bool {
        let reads = |end: &EndState| matches!(end.at, At::Read { element: read, .. } if read == element);
        self.ends.iter().any(reads)
    }

    fn free(&mut self, key: End) {
        if let Some(element) = self.pairs[key].take() {
            self.in_use[element] = false;
        }
    }

    /// Goes on without a peer, or with the one that was found.
    fn looked(&mut self, end: End, found: Option<Offer>) {
        let peer = found.map(|offer| (offer.cookie.unwrap(), offer.sock.unwrap()));
        self.ends[end].peer = peer;
        self.ends[end].looked = true;
        self.ends[end].at = match (role(end), peer) {
            (Role::Active, _) => At::Open,
            (Role::Passive, Some(_)) => At::Flow,
            // The active end is not enrolled: this one is not either.
            (Role::Passive, None) => At::Unoffered,
        };
    }

    fn go(&mut self, end: End, case: &Case) {
        let EndState { at, sock, peer, .. } = self.ends[end];
        let next = match at {
            At::Begin => {
                let used = |sock| self.ends.iter().any(|end| end.sock == Some(sock));
                let sock = (0..ENDS).find(|sock| !used(*sock)).expect("one for each end");
                self.cookies[sock] = Some(end);
                self.ends[end].sock = Some(sock);
                match role(end) {
                    Role::Active => At::Flow,
                    Role::Passive => At::Look,
                }
            }
            At::Look => match self.pairs[other(end)] {
                Some(element) => At::Read {
                    element,
                    seen: Offer::default(),
                },
                None => return self.looked(end, None),
            },
            At::Read { seen, .. } if seen.owner != Some(other(end)) => return self.looked(end, None),
            At::Read { seen, .. } if case.confirmed => At::Confirm { seen },
            At::Read { seen, .. } => At::Take { seen },
            At::Confirm { seen } => {
                let flow = self.flows[seen.sock.unwrap()];
                if flow != Some(other(end)) || flow != seen.cookie {
                    return self.looked(end, None);
                }
                At::Take { seen }
            }
            At::Take { seen } => {
                self.free(other(end));
                return self.looked(end, Some(seen));
            }
            At::Flow => {
                self.flows[sock.unwrap()] = Some(end);
                let free = self.in_use.iter().position(|in_use| !in_use);
                let element = free.expect("one for each end");
                self.in_use[element] = true;
                let offer = Offer {
                    owner: Some(end),
                    cookie: Some(end),
                    sock,
                };
                // Only who still reads the element can tell in which order it is written.
                let written = if self.is_read(element) {
                    Offer::default()
                } else {
                    self.elements[element] = offer;
                    offer
                };
                At::Write { element, written }
            }
            At::Write { element, .. } => {
                self.pairs[end] = Some(element);
                At::Sockhash
            }
            At::Sockhash => {
                self.sockhash[end] = true;
                At::Open
            }
            At::Open if role(end) == Role::Active && !self.ends[end].looked => At::Look,
            At::Open => {
                self.ends[end].sent = true;
                let (cookie, sock) = peer.expect("who has none sends by TCP");
                if self.cookies[sock] == Some(cookie) {
                    At::Redirect
                } else {
                    At::Open
                }
            }
            At::Redirect => {
                let (cookie, _) = peer.unwrap();
                if self.sockhash[cookie] {
                    self.misdelivered |= cookie != other(end);
                    self.delivered += 1;
                }
                At::Open
            }
            At::Unhashed => {
                self.free(end);
                At::Unoffered
            }
            At::Unoffered => {
                self.flows[sock.unwrap()] = None;
                self.ends[end].sock = None;
                At::Gone
            }
            At::Gone => unreachable!("the end is gone"),
        };
        self.ends[end].at = next;
    }
}

impl Model for Case {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let end = EndState {
            at: At::Begin,
            sock: None,
            peer: None,
            looked: false,
            sent: false,
        };
        vec![World {
            ends: [end; ENDS],
            elements: [Offer::default(); ENDS],
            in_use: [false; ENDS],
            pairs: [None; ENDS + 1],
            flows: [None; ENDS],
            sockhash: [false; ENDS],
            cookies: [None; ENDS],
            misdelivered: false,
            delivered: 0,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (end, state) in world.ends.iter().enumerate() {
            match state.at {
                // The active end's ACK makes the passive one.
                At::Begin if role(end) == Role::Passive && !world.active_is_open(other(end)) => {}
                At::Read { seen: offer, .. } | At::Write { written: offer, .. } => {
                    let reads = matches!(state.at, At::Read { .. });
                    let fields = self.fields(&offer, reads);
                    if fields.is_empty() {
                        steps.push(Step::Go(end));
                    }
                    steps.extend(fields.into_iter().map(|field| Step::Field(end, field)));
                }
                At::Sockhash => steps.extend([Step::Go(end), Step::Refuse(end)]),
                At::Open => {
                    steps.push(Step::Close(end));
                    let looks = role(end) == Role::Active && !state.looked;
                    if looks || (state.peer.is_some() && !state.sent) {
                        steps.push(Step::Go(end));
                    }
                }
                At::Gone => {}
                _ => steps.push(Step::Go(end)),
            }
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Go(end) => world.go(end, self),
            Step::Field(end, field) => match &mut world.ends[end] {
                EndState {
                    at: At::Read { element, seen },
                    ..
                } => {
                    let offer = world.elements[*element];
                    seen.copy(&offer, field);
                }
                EndState {
                    at: At::Write { element, written },
                    sock,
                    ..
                } => {
                    let offer = Offer {
                        owner: Some(end),
                        cookie: Some(end),
                        sock: *sock,
                    };
                    written.copy(&offer, field);
                    world.elements[*element].copy(&offer, field);
                }
                _ => unreachable!("only offers have fields"),
            },
            Step::Refuse(end) => {
                world.free(end);
                world.ends[end].at = At::Unoffered;
            }
            Step::Close(end) => {
                world.sockhash[end] = false;
                world.ends[end].at = At::Unhashed;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no message goes astray", |_, world: &World| !world.misdelivered),
            Property::always("nothing is left behind", |_, world: &World| {
                let over = world.ends.iter().all(|end| end.at == At::Gone);
                let used = world.in_use.contains(&true)
                    || world.sockhash.contains(&true)
                    || world.flows.iter().any(Option::is_some);
                !(over && used)
            }),
            Property::sometimes("every end redirects", |_, world: &World| world.delivered == 2),
        ]
    }
}

#[test]
fn messages_reach_the_other_end_or_nobody() {
    let case = Case {
        ordered: false,
        confirmed: true,
    };
    assert_eq!(explore(case), [""; 0]);
}

/// An offer that carries its owner is enough where the order is kept, and only there.
#[test]
fn the_owner_of_an_offer_is_no_proof_on_every_processor() {
    for (ordered, found) in [(true, &[][..]), (false, &["no message goes astray"])] {
        let case = Case {
            ordered,
            confirmed: false,
        };
        assert_eq!(explore(case), found, "{case:?}");
    }
}
