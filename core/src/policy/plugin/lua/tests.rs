//! Scripts from their text to their verdicts.
