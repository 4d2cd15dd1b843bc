//! The arithmetic of the RIN engine, one folder per operation, one file per instruction tier.
