/**
 * Protection of connections after their handshake. `authenticated` (the default): every frame carries a code under a key of the
 * connection (AES-256-GCM), and requests, keys of regions and answers are encrypted; the bytes of regions are readable in
 * transit. `encrypted`: these are encrypted too. `none`: nothing, for networks that nobody else can reach. A connection uses
 * the stronger of what its two sides request.
 */
export type TcpProtection = 'none' | 'authenticated' | 'encrypted'
