"""Where items live: the SQL catalogue, segment files with embeddings, and the FAISS indexes over them."""
