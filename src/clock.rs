//! The one place that reads time, so that everything else can be given a time.
use std::time::{Duration, Instant};

/// A monotonic stopwatch.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    start: Instant,
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this module is the clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Returns the time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns the nanoseconds since the start, saturating after 584 years.
    #[must_use]
    pub fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Returns a moment, in seconds since 1970, as RFC 3339 text in UTC; none beyond the calendar.
#[must_use]
pub fn timestamp_at(seconds: u64) -> Option<String> {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map(|moment| moment.to_string())
}

/// Returns the present moment in UTC in a format of C's `strftime`; none for a format that is wrong.
#[must_use]
pub fn strftime_now(format: &str) -> Option<String> {
    jiff::fmt::strtime::format(format, jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).datetime()).ok()
}

/// Returns the present moment as RFC 3339 text in UTC, milliseconds kept.
#[must_use]
pub fn timestamp() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
