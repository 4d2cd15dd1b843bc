//! Test support: counting allocator, bit comparison, tiny models.
