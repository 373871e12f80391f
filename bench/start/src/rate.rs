//! Functions started and finished in a second, several at once.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use cwasi_testnode::{Container, Pod};

use crate::{Error, Peer, Result, Stage};

/// How many are made.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// At once.
    pub workers: u16,
    /// One after the other, by each worker.
    pub each: u16,
}

/// Containers per second, created, ended by themselves and removed, in a pod of each worker's that was there before.
///
/// # Errors
/// One does not start, or does not end as it should.
pub fn containers(stage: &Stage, peer: Peer, load: Load) -> Result<f64> {
    let pods: Vec<_> = (0..load.workers)
        .map(|worker| stage.node().pod(&peer.pod(&format!("worker-{worker}"))))
        .collect::<std::result::Result<_, _>>()?;
    let rate = at_once(load, |worker, number| {
        run(stage, peer, &pods[usize::from(worker)], number).and_then(|container| Ok(container.remove()?))
    })?;
    for pod in pods {
        pod.remove()?;
    }
    Ok(rate)
}

/// Pods per second, each made, with one container that ends by itself, and removed.
///
/// # Errors
/// One does not start, or does not end as it should.
pub fn pods(stage: &Stage, peer: Peer, load: Load) -> Result<f64> {
    at_once(load, |worker, number| {
        let pod = stage.node().pod(&peer.pod(&format!("pod-{worker}-{number}")))?;
        run(stage, peer, &pod, number)?;
        Ok(pod.remove()?)
    })
}

/// Runs a container to its end.
fn run<'n>(stage: &Stage, peer: Peer, pod: &Pod<'n>, number: u16) -> Result<Container<'n>> {
    let spec = peer.printing(&format!("c{number}"), stage.image(peer));
    let container = pod.run(&spec)?;
    match container.wait()? {
        0 => Ok(container),
        code => Err(Error::Invalid {
            peer,
            detail: format!("it ended with {code}: {}", container.stderr()?.trim()),
        }),
    }
}

/// Does `job`, which is told the worker and which of its jobs it is, `workers` × `each` times; gives how often in a second.
fn at_once(load: Load, job: impl Fn(u16, u16) -> Result<()> + Sync) -> Result<f64> {
    let start = Barrier::new(usize::from(load.workers) + 1);
    let begin = thread::scope(|scope| {
        let workers: Vec<_> = (0..load.workers)
            .map(|worker| {
                let (start, job) = (&start, &job);
                scope.spawn(move || {
                    start.wait();
                    (0..load.each).try_for_each(|number| job(worker, number))
                })
            })
            .collect();
        start.wait();
        let begin = Instant::now();
        for worker in workers {
            worker
                .join()
                .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))?;
        }
        Ok::<_, Error>(begin)
    })?;
    let done = f64::from(load.workers) * f64::from(load.each);
    Ok(done / begin.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_job_is_done_once_and_the_clock_runs_meanwhile() {
        let (done, at_once_now, most) = (AtomicU16::new(0), AtomicU16::new(0), AtomicU16::new(0));
        let load = Load { workers: 3, each: 4 };
        let rate = at_once(load, |worker, number| {
            most.fetch_max(at_once_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(10));
            at_once_now.fetch_sub(1, Ordering::SeqCst);
            done.fetch_or(1 << (worker * 4 + number), Ordering::SeqCst);
            Ok(())
        });
        // 4 sleeps in a row: no more than 12 in 40 ms.
        assert!(rate.unwrap() <= 300.0);
        assert_eq!(done.into_inner(), (1 << 12) - 1);
        assert!(most.into_inner() <= 3);
    }

    #[test]
    fn a_job_that_fails_fails_all() {
        let failed = at_once(Load { workers: 2, each: 2 }, |worker, _| match worker {
            0 => Ok(()),
            _ => Err(Error::NoNode("why".to_owned())),
        });
        assert!(failed.unwrap_err().to_string().ends_with("why"));
    }
}
