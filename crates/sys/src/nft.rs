//! nft (being written).
