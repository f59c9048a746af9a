//! The conformance suite against this package's daemon; the cases are `balancedns-conformance`'s.

fn main() -> std::process::ExitCode {
    balancedns_conformance::main(env!("CARGO_BIN_EXE_balancedns-smol"))
}
