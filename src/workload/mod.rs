//! The workloads, each in one file, and the launch that runs them in a child process.
