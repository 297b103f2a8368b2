//! Carries out a plan: launches in child processes, journal, resume.
