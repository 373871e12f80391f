//! How much memory a guest may have.

use wasmtime::ResourceLimiter;

/// Bytes that the host keeps for one element of a table.
const TABLE_ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

/// A growth that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Bytes that all memories and tables together would have had.
    pub wanted: u64,
    /// Bytes that they may have.
    pub limit: u64,
}

/// Bounds the sum of a guest's linear memories and tables, in bytes. Refused growth is -1 for the guest, which may
/// handle it; the first refusal is kept to explain a later trap.
#[derive(Debug)]
pub struct MemoryLimiter {
    limit: u64,
    granted: u64,
    refused: Option<Refused>,
}

impl MemoryLimiter {
    /// A limiter of `limit` bytes; `None` is no limit.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            limit: limit.unwrap_or(u64::MAX),
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
        let wanted = self.granted.saturating_add(bytes);
        if wanted > self.limit {
            self.refused.get_or_insert(Refused {
                wanted,
                limit: self.limit,
            });
            return false;
        }
        self.granted = wanted;
        true
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
        let mut limiter = MemoryLimiter::new(Some(1000));
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
        let mut limiter = MemoryLimiter::new(Some(1000));
        assert!(limiter.memory_growing(0, 900, Some(800)).unwrap());
        assert!(limiter.memory_growing(0, 1000, Some(1000)).unwrap());
    }

    proptest! {
        #[test]
        fn the_sum_never_exceeds_the_limit(limit in 0u64..10_000, steps in prop::collection::vec(0usize..3000, 0..40)) {
            let mut limiter = MemoryLimiter::new(Some(limit));
            let mut size = 0;
            for step in steps {
                let fits = (size + step) as u64 <= limit;
                prop_assert_eq!(limiter.memory_growing(size, size + step, None).unwrap(), fits);
                size += if fits { step } else { 0 };
            }
        }
    }
}
