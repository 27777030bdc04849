/** Returns the number by which a receiver is distinguished from a rank of the manifest. */
export const numberOf = (receiver: number): number => -1 - receiver

/** Returns true if a number among the sources is that of a receiver. */
export const isReceiver = (rank: number): boolean => rank < 0
