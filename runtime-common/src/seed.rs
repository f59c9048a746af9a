//! Entropy: the seeds from which all random streams of core grow.

/// Thirty-two octets of the kernel's randomness.
///
/// # Errors
/// The kernel has none to give, which on Linux means that `getrandom` is forbidden by a sandbox.
pub fn seed() -> Result<[u8; 32], getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_seeds_differ() {
        assert_ne!(super::seed().expect("entropy"), super::seed().expect("entropy"));
    }
}
