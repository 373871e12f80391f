//! How much memory a guest may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

/// Bytes that the host keeps for one element of a table.
const TABLE_ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

/// A growth that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Bytes that all memories and tables of the budget together would have had.
    pub wanted: u64,
    /// Bytes that they may have.
    pub limit: u64,
}

/// Bytes that any number of guests may have together.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    granted: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes; `None` is no limit.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.unwrap_or(u64::MAX),
            granted: AtomicU64::new(0),
        })
    }

    /// Takes `bytes` out of the budget, all or nothing.
    fn take(&self, bytes: u64) -> Result<(), Refused> {
        let fits = |granted: u64| granted.checked_add(bytes).filter(|wanted| *wanted <= self.limit);
        let taken = self
            .granted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(drop).map_err(|granted| Refused {
            wanted: granted.saturating_add(bytes),
            limit: self.limit,
        })
    }

    fn give_back(&self, bytes: u64) {
        self.granted.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bounds the sum of a guest's linear memories and tables, in bytes, by what is left of a budget. Refused growth is -1 for
/// the guest, which may handle it; the first refusal is kept to explain a later trap. What the guest had returns to the
/// budget with the limiter's end.
#[derive(Debug)]
pub struct MemoryLimiter {
    budget: Arc<Budget>,
    granted: u64,
    refused: Option<Refused>,
}

impl MemoryLimiter {
    /// A limiter of a guest that takes its bytes from `budget`.
    #[must_use]
    pub const fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            granted: 0,
            refused: None,
        }
    }

    /// The first growth that was refused.
    #[must_use]
    pub const fn refused(&self) -> Option<Refused> {
        self.refused
    }

    fn grow(&mut self, bytes: u64) -> bool {
        match self.budget.take(bytes) {
            Ok(()) => {
                self.granted += bytes;
                true
            }
            Err(refused) => {
                self.refused.get_or_insert(refused);
                false
            }
        }
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.budget.give_back(self.granted);
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Beyond the memory's own maximum the engine refuses anyway: nothing is granted then.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(true);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(true);
        }
        let elements = desired.saturating_sub(current) as u64;
        Ok(self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memories_and_tables_share_the_limit() {
        let mut limiter = MemoryLimiter::new(Budget::new(Some(1000)));
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.table_growing(0, 40, None).unwrap());
        assert!(limiter.memory_growing(0, 80, None).unwrap());
        assert_eq!(limiter.refused(), None);
        assert!(!limiter.memory_growing(80, 81, None).unwrap());
        assert!(!limiter.table_growing(40, usize::MAX, None).unwrap());
        assert_eq!(
            limiter.refused(),
            Some(Refused {
                wanted: 1001,
                limit: 1000
            })
        );
    }

    #[test]
    fn what_the_engine_will_refuse_is_not_counted() {
        let mut limiter = MemoryLimiter::new(Budget::new(Some(1000)));
        assert!(limiter.memory_growing(0, 900, Some(800)).unwrap());
        assert!(limiter.memory_growing(0, 1000, Some(1000)).unwrap());
    }

    #[test]
    fn guests_of_one_budget_share_it_and_give_it_back() {
        let budget = Budget::new(Some(1000));
        let mut first = MemoryLimiter::new(Arc::clone(&budget));
        let mut second = MemoryLimiter::new(Arc::clone(&budget));
        assert!(first.memory_growing(0, 600, None).unwrap());
        assert!(!second.memory_growing(0, 600, None).unwrap());
        assert!(second.memory_growing(0, 400, None).unwrap());
        drop(first);
        assert!(second.memory_growing(400, 1000, None).unwrap());
        assert!(!second.memory_growing(1000, 1001, None).unwrap());
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut limiter = MemoryLimiter::new(Budget::new(None));
        assert!(limiter.memory_growing(0, usize::MAX, None).unwrap());
        assert_eq!(limiter.refused(), None);
    }

    proptest! {
        #[test]
        fn the_sum_never_exceeds_the_limit(limit in 0u64..10_000, steps in prop::collection::vec(0usize..3000, 0..40)) {
            let mut limiter = MemoryLimiter::new(Budget::new(Some(limit)));
            let mut size = 0;
            for step in steps {
                let fits = (size + step) as u64 <= limit;
                prop_assert_eq!(limiter.memory_growing(size, size + step, None).unwrap(), fits);
                size += if fits { step } else { 0 };
            }
        }
    }
}
