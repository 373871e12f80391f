//! Who takes part in a workload: the command line of each function.
//!
//! Guests and native programs take the same words. Each client prints its result on stdout as a JSON object in a line of its own;
//! so does the server of a fan-in.

use super::peer::Carrier;
use super::workload::{Kind, Workload};

/// A program and its arguments, as every host runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// The guest, or the subcommand of a native program.
    pub program: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
}

/// The functions of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast {
    /// They listen, unless what they wait for comes through another program, and end after their last connection or message. As
    /// many as there are addresses.
    pub servers: Vec<Role>,
    /// They print results, and end by themselves.
    pub clients: Vec<Role>,
}

/// How much a run does, and how thoroughly it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Requests of each connection, or bytes of a stream.
    pub amount: u64,
    /// Whether each byte is compared, at any cost in speed.
    pub verify: bool,
}

impl Run {
    /// Requests before those that are measured: the first ones of a connection go by TCP also where others do not.
    fn warmup(self) -> u64 {
        (self.amount / 20).clamp(1, 200)
    }
}

impl Role {
    fn new(program: &'static str, args: impl IntoIterator<Item = impl ToString>) -> Self {
        Self {
            program,
            args: args.into_iter().map(|word| word.to_string()).collect(),
        }
    }

    fn option(mut self, name: &str, value: u64) -> Self {
        self.args.extend([format!("--{name}"), value.to_string()]);
        self
    }

    fn flag(mut self, name: &str, set: bool) -> Self {
        self.args.extend(set.then(|| format!("--{name}")));
        self
    }
}

impl Workload {
    /// How many servers it has.
    #[must_use]
    pub const fn servers(&self) -> u16 {
        match self.kind {
            Kind::FanOut => self.degree,
            _ => 1,
        }
    }

    /// How many clients.
    #[must_use]
    pub const fn clients(&self) -> u16 {
        match self.kind {
            Kind::FanIn => self.degree,
            _ => 1,
        }
    }

    /// Its functions, which listen at `listen` and are called at `dial`: as many addresses as there are servers.
    #[must_use]
    pub fn cast(&self, carrier: Carrier, listen: &[String], dial: &[String], run: Run) -> Cast {
        match carrier {
            Carrier::Redis => self.by_redis(&dial[0], run),
            Carrier::Http => self.by_http(&listen[0], &dial[0], run),
            Carrier::Connection if self.kind == Kind::Stream => self.stream(&listen[0], &dial[0], run),
            Carrier::Connection => self.requests(listen, dial, run),
        }
    }

    fn requests(&self, listen: &[String], dial: &[String], run: Run) -> Cast {
        let serve = |address: &String| {
            Role::new("rr", ["serve", address])
                .option("connections", self.connections(run))
                .option("together", u64::from(self.clients()))
                .flag("report", self.kind == Kind::FanIn)
                .flag("verify", run.verify)
                .flag("nodelay", self.nodelay)
        };
        let call = ["client"].into_iter().chain(dial.iter().map(String::as_str));
        let answer = match self.kind {
            Kind::Transfer | Kind::FanOut | Kind::FanIn => 1,
            _ => self.size,
        };
        let client = Role::new("rr", call)
            .option("size", self.size)
            .option("answer", answer)
            .option("count", run.amount)
            .option("warmup", run.warmup())
            .option(
                "connections",
                match self.kind {
                    Kind::Connections => u64::from(self.degree),
                    _ => 1,
                },
            )
            .flag("rounds", self.kind == Kind::FanOut)
            .flag("fresh", self.kind == Kind::Connect)
            .flag("verify", run.verify)
            .flag("nodelay", self.nodelay);
        Cast {
            servers: listen.iter().map(serve).collect(),
            clients: vec![client; self.clients().into()],
        }
    }

    /// Connections that a server sees in a run.
    fn connections(&self, run: Run) -> u64 {
        match self.kind {
            Kind::Connections | Kind::FanIn => u64::from(self.degree),
            Kind::Connect => run.amount + run.warmup(),
            _ => 1,
        }
    }

    /// Both ends are clients of Redis at `broker`.
    fn by_redis(&self, broker: &str, run: Run) -> Cast {
        let consumer = Role::new("redis", ["consumer", broker]).option("messages", run.amount + run.warmup());
        let producer = Role::new("redis", ["producer", broker])
            .option("size", self.size)
            .option("count", run.amount)
            .option("warmup", run.warmup());
        Cast {
            servers: vec![consumer],
            clients: vec![producer],
        }
    }

    fn by_http(&self, listen: &str, dial: &str, run: Run) -> Cast {
        let client = Role::new("post", ["client", dial])
            .option("size", self.size)
            .option("count", run.amount)
            .option("warmup", run.warmup());
        Cast {
            servers: vec![Role::new("post", ["serve", listen]).option("connections", 1)],
            clients: vec![client],
        }
    }

    fn stream(&self, listen: &str, dial: &str, run: Run) -> Cast {
        let source = Role::new("bulk", ["source", dial])
            .option("size", self.size)
            .option("bytes", run.amount)
            .flag("nodelay", self.nodelay);
        let sink = Role::new("bulk", ["sink", listen])
            .option("connections", 1)
            .flag("verify", run.verify);
        Cast {
            servers: vec![sink],
            clients: vec![source],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::Group;
    use super::*;

    const RUN: Run = Run {
        amount: 1000,
        verify: false,
    };

    fn words(role: &Role) -> String {
        format!("{} {}", role.program, role.args.join(" "))
    }

    fn addresses(count: u16) -> Vec<String> {
        (0..count).map(|number| format!("10.0.0.{number}:70")).collect()
    }

    #[test]
    fn a_round_trip_has_one_of_each() {
        let workload = Workload::new(Group::Rtt, Kind::Rtt, 64);
        let cast = workload.cast(Carrier::Connection, &addresses(1), &addresses(1), RUN);
        assert_eq!(
            cast.servers.iter().map(words).collect::<Vec<_>>(),
            ["rr serve 10.0.0.0:70 --connections 1 --together 1 --nodelay"]
        );
        assert_eq!(
            cast.clients.iter().map(words).collect::<Vec<_>>(),
            [
                "rr client 10.0.0.0:70 --size 64 --answer 64 --count 1000 --warmup 50 --connections 1 --nodelay"
            ]
        );
    }

    #[test]
    fn one_calls_many_and_many_call_one() {
        let out = Workload::new(Group::FanOut, Kind::FanOut, 2000).times(3);
        let cast = out.cast(Carrier::Connection, &addresses(3), &addresses(3), RUN);
        assert_eq!((cast.servers.len(), cast.clients.len()), (3, 1));
        let client = words(&cast.clients[0]);
        assert!(
            client.starts_with("rr client 10.0.0.0:70 10.0.0.1:70 10.0.0.2:70 --size 2000 --answer 1 ")
                && client.contains("--rounds"),
            "{client}"
        );

        let many = Workload::new(Group::FanIn, Kind::FanIn, 2000).times(3);
        let cast = many.cast(Carrier::Connection, &addresses(1), &addresses(1), RUN);
        assert_eq!((cast.servers.len(), cast.clients.len()), (1, 3));
        let server = words(&cast.servers[0]);
        assert!(
            server.contains("--connections 3 --together 3 --report"),
            "{server}"
        );
    }

    #[test]
    fn messages_may_be_carried() {
        let workload = Workload::new(Group::Transfer, Kind::Transfer, 2000);
        let cast = |carrier| workload.cast(carrier, &addresses(1), &addresses(1), RUN);
        let redis = cast(Carrier::Redis);
        assert_eq!(
            words(&redis.servers[0]),
            "redis consumer 10.0.0.0:70 --messages 1050"
        );
        assert_eq!(
            words(&redis.clients[0]),
            "redis producer 10.0.0.0:70 --size 2000 --count 1000 --warmup 50"
        );
        let http = cast(Carrier::Http);
        assert_eq!(words(&http.servers[0]), "post serve 10.0.0.0:70 --connections 1");
    }

    #[test]
    fn a_server_sees_as_many_connections_as_are_made() {
        let connections = |kind| Workload::new(Group::Connect, kind, 64).times(8).connections(RUN);
        assert_eq!(connections(Kind::Connect), 1050);
        assert_eq!(connections(Kind::Connections), 8);
        assert_eq!(connections(Kind::Rtt), 1);
    }
}
