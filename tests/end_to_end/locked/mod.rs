//! What a locked server promises: to those with a token, to those without one, and to whoever runs
//! it.

mod audit;
mod doors;
mod drop_box;
mod everything;
pub mod house;
mod leases;
mod opening;
mod ownership;
mod quotas;
mod refused;
mod rights;
mod transport;
